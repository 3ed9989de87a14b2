"""The head of a network in a PyTorch file, whatever its name: the one layer behind the network."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from attn_flax.interop.torch_networks import Network, StateDict, shared

_LEAF = re.compile(r'.*\.(weight|bias|running_mean|running_var)')
# What a script keeps of its losses and metrics, by a word of the module's name.
_LOSS = re.compile(
  r'([a-z0-9]+_)*(criterion|loss(es)?|class_weights?|metrics?|acc\d*|accuracy|auroc)(_\w+)?',
  re.IGNORECASE,
)


class Head(NamedTuple):
  """What stands beside the layers of a network; all names are those of the state dict.

  Attributes:
    layer: the one layer that takes the network's features; None where there is none or several.
    candidates: the weights that take the network's features, where several layers follow it.
    behind: all weights that follow the network, other than those of `layer`.
    unknown: weights among those of the network that are of none of its layers nor follow it.
    left: modules outside the one that holds the network and its head.
  """

  layer: str | None
  candidates: list[str]
  behind: list[str]
  unknown: list[str]
  left: list[str]


def find_head(state: StateDict, network: Network) -> Head:
  """Finds the layer that takes the network's features, below the network's prefix or beside it."""
  root, modules = network.root, network.root.split('.')[:-1]
  width = _width(state, network)
  # A wrapper may keep anything beside the network; its layers may follow the network.
  names = [*network.beside, *(name for name in network.around if _LEAF.fullmatch(name))]
  # The network itself, then the modules that hold it; the head is in the first that holds one.
  scopes = [''.join(f'{module}.' for module in modules[:n]) for n in range(len(modules), -1, -1)]
  known = {
    scope: [n for n in names if n.startswith(scope) and _serves(n, scope)] for scope in scopes
  }
  chains = {scope: _chain(state, known[scope], width) for scope in scopes}
  scope = next((scope for scope in scopes if chains[scope]), root)
  chain = chains[scope]
  first = [name for name in chain if state[name].shape[1] == width]
  layer = None
  if first == chain and len(first) == 1 and first[0].endswith('.weight'):
    layer = first[0].removesuffix('.weight')
  ends = {_top(name, scope) for name in chain}
  rest = [n for n in known[scope] if not (layer and n.startswith(f'{layer}.'))]
  behind = [n for n in rest if not n.startswith(root) or _top(n, scope) in ends]
  left = [name for name in known[''] if not name.startswith(scope)]
  return Head(
    layer=layer,
    candidates=[] if layer else first,
    behind=behind,
    unknown=[name for name in rest if name not in behind],
    left=sorted({'.'.join(name.split('.')[: shared(name, root) + 1]) for name in left}),
  )


def _serves(name: str, scope: str) -> bool:
  """Whether a name in a module is not that of a loss or a metric."""
  return not any(map(_LOSS.fullmatch, name.removeprefix(scope).split('.')))


def _width(state: StateDict, network: Network) -> int:
  """Channels of the features, which the last convolution of the last stage gives; 0 if unknown."""
  pattern = re.compile(r'layer(\d+)\.0\.conv(\d)\.weight')
  matches = (pattern.fullmatch(name) for name in network.layers)
  last = max(((int(m[1]), int(m[2]), m[0]) for m in matches if m), default=None)
  return state[network.layers[last[2]]].shape[0] if last else 0


def _chain(state: StateDict, names: Iterable[str], width: int) -> list[str]:
  """Weights of dense layers that take the network's features, or what such a layer gives.

  Features that are not averaged, or are averaged in several ways, are a multiple of the width.
  """
  dense = [name for name in names if state[name].ndim == 2 or state[name].shape[2:] == (1, 1)]
  found = [name for name in dense if width and state[name].shape[1] % width == 0]
  while new := [n for n in dense if n not in found and _follows(state, n, found)]:
    found += new
  return found


def _follows(state: StateDict, name: str, before: list[str]) -> bool:
  return any(state[name].shape[1] == state[other].shape[0] for other in before)


def _top(name: str, scope: str) -> str:
  return name.removeprefix(scope).split('.')[0]
