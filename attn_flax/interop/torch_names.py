"""The weights of a PyTorch network in one naming, whatever file they come from."""

from typing import NamedTuple

import numpy as np

from attn_flax.interop.torch_head import Head, find_head
from attn_flax.interop.torch_networks import StateDict, find_network, tell

_OLD_NAMES = (('layer0.', ''), ('se_module.', 'se.'))


class Weights(NamedTuple):
  """Weights with the names of torchvision, but `downsample.conv` and `downsample.norm`.

  Attributes:
    arrays: weights of the network and of its one-layer head `fc` by name.
    legacy: whether the file's names are those of the older SE networks, which follow Caffe's.
    pooled_shortcut: whether the shortcuts pool before their convolution.
    names: the file's names of the weights, by the names here.
    root: the prefix of all names of the network in the file, such as 'module.'.
    head: what else stands beside the network's layers in the file.
  """

  arrays: dict[str, np.ndarray]
  legacy: bool
  pooled_shortcut: bool
  names: dict[str, str]
  root: str
  head: Head

  @property
  def classes(self) -> int | None:
    """Classes of the head; None where no single layer is the head."""
    head = self.arrays.get('fc.weight')
    return None if head is None else head.shape[0]

  @property
  def channels(self) -> int:
    """Channels of the images, read off the stem's first convolution."""
    stem = self.arrays.get('conv1.0.weight', self.arrays.get('conv1.weight'))
    return 3 if stem is None else stem.shape[1]

  def without_head(self) -> 'Weights':
    """The weights without all that follows the network."""
    kept = {name: value for name, value in self.arrays.items() if not name.startswith('fc.')}
    return self._replace(arrays=kept, head=self.head._replace(candidates=[], behind=[]))

  def original(self, name: str) -> str:
    """The name that a weight has in its file, or would have there."""
    if name in self.names:
      return self.names[name]
    module, _, leaf = name.rpartition('.')
    for known, old in self.names.items():
      if known.rpartition('.')[0] == module:
        return f'{old.rpartition(".")[0]}.{leaf}'
    conv, norm = (1, 2) if self.pooled_shortcut else (0, 1)
    name = name.replace('downsample.conv', f'downsample.{conv}')
    return self.root + name.replace('downsample.norm', f'downsample.{norm}')


def canonical(state: StateDict) -> Weights:
  """Finds the network in a state dict, and renames its weights as `Weights` describes.

  Strips the prefixes that wrappers put before the names, and drops the counters of batch norms.
  Prints to standard error what else the state dict holds.

  Raises:
    UserError: for a state dict with several networks, none of which is to be preferred.
  """
  network = find_network(state)
  head = find_head(state, network)
  if head.left:
    tell(f'not read, for they are outside the network: {", ".join(head.left)}')
  names = network.layers
  legacy = 'layer0.conv1.weight' in names
  if legacy:
    for before, after in _OLD_NAMES:
      names = {clean.replace(before, after): name for clean, name in names.items()}
  names = {clean.replace('.shortcut.', '.downsample.'): name for clean, name in names.items()}
  # A pooled shortcut begins with its pool, which has no weights; its convolution is number 1.
  pooled = any(
    clean.endswith('downsample.1.weight') and state[name].ndim == 4 for clean, name in names.items()
  )
  conv, norm = (1, 2) if pooled else (0, 1)
  names = {
    clean.replace(f'downsample.{conv}.', 'downsample.conv.').replace(
      f'downsample.{norm}.', 'downsample.norm.'
    ): name
    for clean, name in names.items()
  }
  if head.layer:
    of_head = (name for name in state if name.startswith(f'{head.layer}.'))
    names |= {f'fc{name.removeprefix(head.layer)}': name for name in of_head}
  arrays = {clean: state[name] for clean, name in names.items()}
  if head.layer:
    # A layer without bias gives what one with a bias of 0 gives.
    arrays.setdefault('fc.bias', np.zeros(len(arrays['fc.weight']), np.float32))
  return Weights(arrays, legacy, pooled, names, network.root, head)
