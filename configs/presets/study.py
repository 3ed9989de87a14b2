"""The fields of a study: many runs that differ in their attention and seed, and one report."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.presets.recipes import RECIPES

# The words that choose the size of a study; all others set the configuration that its runs share.
PRESETS = ('smoke', 'quick')


def split(arg):
  """The preset that an argument names, or '', and the words for the shared configuration.

  Raises:
    ValueError: for two presets.
  """
  words = [word for word in (word.strip() for word in (arg or '').split(',')) if word]
  presets = [word for word in words if word in PRESETS]
  if len(presets) > 1:
    raise ValueError(f'the config argument {arg!r} names {" and ".join(presets)}; keep one')
  preset = presets[0] if presets else ''
  # `smoke` also goes to the shared configuration, where it means a tiny network and a few updates.
  shared = [word for word in words if word != 'quick']
  return preset, ','.join(shared)


def at(where, entry):
  """A value of `config.model.attention`: the entry `entry` at the place `where`."""
  attention = ConfigDict()
  attention[where] = entry
  return attention


def make(preset, words, shared, baseline, variants):
  """The configuration of a study.

  Args:
    preset: 'smoke' (minutes), 'quick' (hours on two CPU cores), or '' for the full study.
    words: the words that `shared` was made from; a recipe among them is kept.
    shared: the configuration that all its runs share.
    baseline: name of the variant that the others are compared with.
    variants: the value of `config.model.attention` of each variant, by name.
  """
  recipe = set(words.split(',')) & RECIPES.keys()
  config = ConfigDict()
  # Name of the variant that the others are compared with.
  config.baseline = baseline
  # The configuration that all runs share; each run sets its own seed and attention.
  config.base = shared
  if config.base.data.name == 'cluttered_digits' and preset != 'smoke' and not recipe:
    config.base.train.epochs = 10 if preset == 'quick' else 30
    # With SGD, the networks with CBAM and augmented convolutions were still at chance level after
    # five of ten epochs, and their seeds differed by 40 points; with AdamW all learn in ten epochs.
    config.base.optimizer.name = 'adamw'
    config.base.optimizer.lr_per_256 = 0.016
    config.base.optimizer.weight_decay = 0.05
    config.base.optimizer.warmup_epochs = 0.5
  # The variants: the value of `config.model.attention` in each.
  config.variants = ConfigDict()
  for name, attention in variants.items():
    config.variants[name] = attention
  # Names of the variants to compare; none: all. The baseline is always among them.
  config.select = placeholder(tuple)
  # Seeds of the runs of each variant; fewer than three allow no verdict.
  config.seeds = (0, 1, 2) if preset else (0, 1, 2, 3, 4)
  # One run to train, such as 'eca/seed1', without a report, to spread a study over machines; none:
  # all runs.
  config.only = placeholder(str)

  config.sweep = ConfigDict()
  # Peak learning rates per 256 images to try first for each variant; its runs take the one that is
  # best on the validation split. None: all take that of `base`.
  config.sweep.lr_per_256 = placeholder(tuple)
  # Seed of the runs that choose the learning rate; it must not be one of `seeds`.
  config.sweep.seed = 1000

  config.report = ConfigDict()
  # Number of test images to explain, drawn at random; none: all, or 2,000 if they do not fit in
  # memory.
  config.report.images = placeholder(int)
  # How many of these are scored by insertion, deletion and ROAD.
  config.report.perturbed_images = 20 if preset == 'smoke' else 100
  # Number of steps of insertion and deletion.
  config.report.steps = 5 if preset == 'smoke' else 10
  # Number of images in the pictures.
  config.report.pictures = 8
  # Position of the query in pictures of attention between positions: (y, x) as shares of the height
  # and the width of the feature map.
  config.report.query = (0.5, 0.5)
  # Rounds of timing; in each, all variants are timed in turn.
  config.report.rounds = 5 if preset == 'smoke' else 20
  # Seed of the drawn images, the random maps and the random weights.
  config.report.seed = 0
  return config
