"""Starts a run from trained weights, and says which are loaded, new and left."""

from collections.abc import Iterable
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.errors import UserError, counted, listed
from attn_flax.files import local_path
from attn_flax.interop.torch_weights import from_torch
from attn_flax.training.checkpoints import read_weights
from attn_flax.training.steps import TrainState

# {path: weight}, with paths such as `params/stage1_block1/conv1/kernel`.
FlatWeights = dict[str, np.ndarray | jax.Array]


class Loaded(NamedTuple):
  """The paths of weights, such as `params/stage1_block1/conv1/kernel`, after `start_from`.

  Attributes:
    loaded: weights taken from the source.
    new: weights that keep their initial values: the source lacks them or has another shape, as the
      head has for other classes.
    left: weights of the source that are not used.
  """

  loaded: list[str]
  new: list[str]
  left: list[str]

  def describe(self) -> str:
    """One line with the number of loaded arrays, and the modules that are new or left."""

    def modules(paths: Iterable[str]) -> str:
      return listed(sorted({path.split('/', 1)[1].rpartition('/')[0] for path in paths}))

    parts = [f'{counted(len(self.loaded), "array")} loaded']
    parts += [f'new: {modules(self.new)}'] if self.new else []
    parts += [f'left: {modules(self.left)}'] if self.left else []
    return '; '.join(parts)


def read_source(source: str) -> FlatWeights:
  """Reads the weights of a run folder's best checkpoint, or of a PyTorch file.

  Where the run kept a moving average of its weights, the average is read.

  Args:
    source: `config.init_from`, the path of a run folder or of a file that `from_torch` reads.

  Returns:
    {path: weight}, with paths `params/...` and `batch_stats/...`.

  Raises:
    UserError: where the source is neither, or cannot be read.
  """
  path = local_path(source, '--config.init_from')
  if not path.exists():
    raise UserError(
      f'--config.init_from={source} does not exist; name a run folder, or a PyTorch, safetensors '
      'or npz file'
    )
  variables = read_weights(path) if path.is_dir() else from_torch(path)[1]
  return flax.traverse_util.flatten_dict(variables, sep='/')


def _replicate(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
  """An array on the devices of all processes; each process has the whole array on its host."""
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def start_from(state: TrainState, weights: FlatWeights) -> tuple[TrainState, Loaded]:
  """Puts all weights that fit into a fresh state; its moving average starts from them, too.

  Args:
    state: a fresh state.
    weights: what `read_source` returns.

  Returns:
    The new state, and which weights were loaded.

  Raises:
    UserError: where no weight fits in name and shape.
  """
  fresh = {'params': state.params, 'batch_stats': state.batch_stats}
  own = flax.traverse_util.flatten_dict(fresh, sep='/')
  fits = {path for path in own if path in weights and weights[path].shape == own[path].shape}
  if not any(path.startswith('params/') for path in fits):
    raise UserError(
      'no weight fits the network; set --config.init_from to a run of the same network family'
    )
  merged = {
    path: _replicate(np.asarray(weights[path], leaf.dtype), leaf.sharding) if path in fits else leaf
    for path, leaf in own.items()
  }
  variables = flax.traverse_util.unflatten_dict(merged, sep='/')
  average = None if state.ema is None else jax.tree.map(jnp.copy, variables)
  found = Loaded(sorted(fits), sorted(own.keys() - fits), sorted(weights.keys() - fits))
  params, stats = variables['params'], variables.get('batch_stats', {})
  return state._replace(params=params, batch_stats=stats, ema=average), found
