"""The fields of a study: many runs that differ in their attention and seed, and one report."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.presets.recipes import RECIPES

# Words of a study's argument; the others go to the configuration that its runs share.
PRESETS = ('smoke', 'quick')


def split(arg):
  """The preset that an argument names, or '', and the words for the shared configuration."""
  words = [word for word in (word.strip() for word in (arg or '').split(',')) if word]
  presets = [word for word in words if word in PRESETS]
  if len(presets) > 1:
    raise ValueError(f'the config argument {arg!r} names {" and ".join(presets)}; keep one')
  preset = presets[0] if presets else ''
  # A tiny network in a few steps is what `smoke` means for single runs, too.
  shared = [word for word in words if word != 'quick']
  return preset, ','.join(shared)


def at(where, entry):
  """A value of `config.model.attention`: one entry at one place."""
  attention = ConfigDict()
  attention[where] = entry
  return attention


def make(preset, words, shared, baseline, variants):
  """The configuration of a study.

  Args:
    preset: 'smoke' (minutes), 'quick' (hours on two CPU cores), or '' for the whole of it.
    words: what `shared` was made by; a recipe among them is kept.
    shared: the configuration that all its runs share.
    baseline: name of the variant that the others are compared with.
    variants: the value of `config.model.attention` of each variant, by name.
  """
  recipe = set(words.split(',')) & RECIPES.keys()
  config = ConfigDict()
  # Name of the variant that the others are compared with.
  config.baseline = baseline
  # What all runs share; seed and attention are replaced by their own.
  config.base = shared
  if config.base.data.name == 'cluttered_digits' and preset != 'smoke' and not recipe:
    config.base.train.epochs = 10 if preset == 'quick' else 30
    # Under SGD the networks with CBAM and augmented convolutions were still at chance after half of
    # ten epochs, and their seeds differed by 40 points; under AdamW all of them learn in time.
    config.base.optimizer.name = 'adamw'
    config.base.optimizer.lr_per_256 = 0.016
    config.base.optimizer.weight_decay = 0.05
    config.base.optimizer.warmup_epochs = 0.5
  # The variants: what `config.model.attention` is in each.
  config.variants = ConfigDict()
  for name, attention in variants.items():
    config.variants[name] = attention
  # Names of the variants to take; none: all. The baseline is always one.
  config.select = placeholder(tuple)
  # Seeds of the runs of each variant; fewer than three tell no difference.
  config.seeds = (0, 1, 2) if preset else (0, 1, 2, 3, 4)
  # Train one run alone, such as 'eca/seed1', and report nothing: to spread a study over machines.
  config.only = placeholder(str)

  config.sweep = ConfigDict()
  # Peak learning rates per 256 images to try for each variant first; the one that does best on the
  # validation split is taken for its runs. None: all take that of `base`.
  config.sweep.lr_per_256 = placeholder(tuple)
  # Seed of the runs that are tried; none of `seeds`, so that no run decides about itself.
  config.sweep.seed = 1000

  config.report = ConfigDict()
  # Test images to explain, drawn at random where there are more; none: all.
  config.report.images = placeholder(int)
  # Of those, images to insert into and delete from.
  config.report.perturbed_images = 20 if preset == 'smoke' else 100
  # Steps of insertion and deletion.
  config.report.steps = 5 if preset == 'smoke' else 10
  # Images in the pictures.
  config.report.pictures = 8
  # The position that asks in pictures of attention between positions: (y, x) in shares of the map.
  config.report.query = (0.5, 0.5)
  # Rounds in which the costs of all variants are timed in turn.
  config.report.rounds = 5 if preset == 'smoke' else 20
  # Seed of the images drawn, of the random maps and of the random weights.
  config.report.seed = 0
  return config
