"""The words after the colon of a config: networks, datasets and recipes, and what they set."""

import re

from configs.presets.recipes import DATASETS, RECIPES

_THIN = r'resnet(20|32|44|56|110)'
# Patterns of network names, each with the number of stages and the fields of the tiny network that
# `smoke` makes. `attn_flax.create_model` knows which of these networks exist.
_NETWORKS = {
  rf'{_THIN}|wrn\d+_\d+': (3, {'depths': (1, 1, 1), 'widths': (8, 16, 32)}),
  r'(wide_)?resnet\d+(_[\d.]+)?': (
    4,
    {'depths': (1, 1, 1, 1), 'widths': (8, 16, 32, 64), 'stem': 'cifar'},
  ),
  r'resnext\d+_\w+': (
    4,
    {
      'depths': (1, 1, 1, 1),
      'widths': (8, 16, 32, 64),
      'groups': 2,
      'base_width': 32,
      'stem': 'cifar',
    },
  ),
  r'mnasnet_a1(_[\d.]+)?': (
    7,
    {'width_multiplier': 0.25, 'depths': (1,) * 7, 'stem': 'cifar'},
  ),
  r'vit_\w+': (1, {'patch': 8, 'width': 16, 'depth': 2, 'heads': 2, 'mlp_width': 32}),
}
# He's thin CIFAR networks: three stages of 16, 32 and 64 channels.
THIN = re.compile(rf'{_THIN}$')


class UnknownWordError(ValueError):
  """A word is neither one of `known` nor the name of a network; a command line suggests another."""

  def __init__(self, text, word='', known=()):
    super().__init__(text)
    self.word = word
    self.known = known


def apply(config, arg):
  """Sets the fields that the words of an argument stand for.

  Args:
    config: what `base.get_config` makes.
    arg: words, separated by commas: at most one network, dataset and recipe each, and `smoke`. A
      recipe replaces that of the dataset.

  Raises:
    UnknownWordError: for an unknown word.
    ValueError: for two words of a kind.
  """
  words = [word for word in (word.strip() for word in (arg or '').split(',')) if word]
  datasets = [word for word in words if word in DATASETS]
  recipes = [word for word in words if word in RECIPES]
  networks = [word for word in words if _family(word) is not None]
  known = ['smoke', *DATASETS, *RECIPES]
  for word in words:
    if word not in known and word not in networks:
      text = (
        f'unknown word {word!r} after the colon of the config; allowed: smoke, a dataset '
        f'({", ".join(DATASETS)}), a recipe ({", ".join(RECIPES)}), or the name of a network'
      )
      raise UnknownWordError(text, word, known)
  for several in (datasets, recipes, networks):
    if len(several) > 1:
      raise ValueError(f'the config argument {arg!r} names {" and ".join(several)}; keep one')

  for dataset in datasets:
    config.data.name = dataset
    fields = dict(DATASETS[dataset])
    recipes = recipes or [fields.pop('recipe')]
    fields.pop('recipe', None)
    config.update_from_flattened_dict(fields)
  for recipe in recipes:
    config.update_from_flattened_dict(RECIPES[recipe])
  for network in networks:
    config.model.name = network
    if re.match('vit|wrn', network) or THIN.match(network):
      config.model.stem = None  # Their own suits, or they have none.
  if 'smoke' in words:
    config.model.update(_family(config.model.name)[1])
    config.train.steps = 20
    config.log_every = 5


def num_stages(name):
  """The number of stages of the network of this name."""
  return _family(name)[0]


def _family(name):
  """The entry of `_NETWORKS` for a network; None if `name` is not the name of one."""
  return next((entry for form, entry in _NETWORKS.items() if re.fullmatch(form, name)), None)
