"""Which of the networks that a PyTorch file holds is read: an average before what it averages."""

import re
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from attn_flax.errors import UserError

StateDict = Mapping[str, np.ndarray]

# An average of weights, which its users evaluate. Adam's `exp_avg` is none, and beside an average
# `online` is what it averages.
_AVERAGE = r'(?!.*online).*(?<![a-z])(?<!exp_)(ema|swa|polyak|avg|averaged?|teacher)(?![a-z])'
# The networks to prefer among several, in this order: the average; the encoder that users of
# contrastive networks keep; what training scripts call the network.
_PREFERRED = tuple(
  re.compile(pattern, re.IGNORECASE)
  for pattern in (
    _AVERAGE,
    r'(.*\.)?(encoder_q|online\w*)\.',
    r'(model_)?state_dict\.',
    r'(model|net|network|weights)\.',
  )
)
# What wrappers and norms keep beside the weights.
_COUNTER = re.compile(
  r'(.*\.)?(num_batches_tracked|n_averaged|queue\w*|initted|steps?|decay|num_updates)'
)
# Layers of the network without its head.
_LAYER = re.compile(r'(layer\d+|bam\d+|conv1|bn1)\.')


class Network(NamedTuple):
  """A network in a state dict.

  Attributes:
    root: the prefix of its names, such as 'module.'.
    layers: the names in the state dict of its layers but the head, by those without the prefix.
    beside: other names with the prefix, such as those of the head.
    around: names without the prefix that belong to no other network, such as those of a head beside
      the network that a wrapper holds.
  """

  root: str
  layers: dict[str, str]
  beside: list[str]
  around: list[str]


def find_network(state: StateDict) -> Network:
  """Finds the network to read, and where there was a choice, prints it to standard error.

  Raises:
    UserError: for a state dict with several networks, none of which is to be preferred.
  """
  pattern = re.compile(r'((?:.*\.)?)layer\d+\.\d+\.conv\d\.weight')
  roots = sorted({match[1] for name in state if (match := pattern.fullmatch(name))})
  root = _choose(state, roots)
  others = [other for other in roots if other != root]
  own = [n for n in state if not _COUNTER.fullmatch(n) and not _is_nearer(n, others, root)]
  below = {name.removeprefix(root): name for name in own if name.startswith(root)}
  layers = {clean: name for clean, name in below.items() if _LAYER.match(clean)}
  # Averages of parameters alone are evaluated with the statistics of the network itself.
  for other in (other for other in others if _averages(state, root, other)):
    statistics = (n for n in state if n.startswith(other) and '.running_' in n)
    layers = {name.removeprefix(other): name for name in statistics} | layers
  if others:
    tell(f'the weights below {root!r} are read, not those below {_listed(others)}')
  around = [name for name in own if not name.startswith(root)]
  unread = [n for n in around if state[n].ndim > 1 and _PREFERRED[0].match(n)]
  if unread and not _PREFERRED[0].match(root):
    tell(
      f'warning: {unread[0]!r} may be of averaged weights, but its name is not that of a layer; '
      f'the raw weights below {root!r} are read'
    )
  beside = [name for clean, name in below.items() if clean not in layers]
  return Network(root, layers, beside, around)


def tell(text: str) -> None:
  """Prints a line to standard error."""
  print(text, file=sys.stderr)


def _choose(state: StateDict, roots: list[str]) -> str:
  left = roots
  for pattern in _PREFERRED:
    preferred = [root for root in left if pattern.match(root)]
    if pattern is _PREFERRED[0]:
      # The teacher of a smaller network is no average of it.
      preferred = [r for r in preferred if any(_averages(state, r, o) for o in roots if o != r)]
    left = preferred or left
  if len(left) > 1:
    raise UserError(
      f'the weights hold {len(left)} networks, below {_listed(left)}; give one of them, as in '
      f'{{name: value for name, value in state.items() if name.startswith({left[-1]!r})}}'
    )
  return left[0] if left else ''


def _averages(state: StateDict, average: str, raw: str) -> bool:
  """Whether one network may be an average of another: their layers have the same shapes."""

  def shapes(root: str) -> dict[str, tuple[int, ...]]:
    layers = (n for n in state if n.startswith(f'{root}layer') and n.endswith('.weight'))
    return {name.removeprefix(root): state[name].shape for name in layers}

  return shapes(average) == shapes(raw)


def _is_nearer(name: str, others: Iterable[str], root: str) -> bool:
  """Whether a name shares more modules with other networks than with that below `root`."""
  return any(shared(name, other) > shared(name, root) for other in others)


def shared(name: str, root: str) -> int:
  """Number of modules of a prefix, from the outermost on, that a weight is below, too."""
  modules = root.split('.')[:-1]
  return sum(name.startswith('.'.join(modules[: i + 1]) + '.') for i in range(len(modules)))


def _listed(roots: list[str]) -> str:
  return ' and '.join(repr(root) for root in roots)
