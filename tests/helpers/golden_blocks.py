"""Reads the golden files of PyTorch modules in the conventions of Flax."""

import pathlib

import flax.traverse_util
import jax.numpy as jnp

BLOCKS = pathlib.Path(__file__).parents[1] / 'golden' / 'blocks'
# From PyTorch's axes to Flax's: Linear [out, in], Conv1d [out, in, k], Conv2d [out, in, k, k].
_KERNEL_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}
_VECTORS = {
  'weight': ('params', 'scale'),
  'bias': ('params', 'bias'),
  'running_mean': ('batch_stats', 'mean'),
  'running_var': ('batch_stats', 'var'),
}


def variables_of(golden, names):
  """The PyTorch weights of a golden file as variables; `names` has the path of each layer here."""
  flat = {}
  for key in golden.files:
    if not key.startswith('state_dict/') or key.endswith('num_batches_tracked'):
      continue
    layer, _, kind = key.removeprefix('state_dict/').rpartition('.')
    value = golden[key]
    if not layer:  # The module's own gain, stored as one number [1].
      flat['params', kind] = value[0]
      continue
    if value.ndim > 1:
      collection, leaf = 'params', 'kernel'
      value = value.transpose(_KERNEL_AXES[value.ndim])
    else:
      collection, leaf = _VECTORS[kind]
    flat[collection, *names[layer].split('/'), leaf] = value
  return flax.traverse_util.unflatten_dict(flat)


def nhwc(array):
  """[N, C, H, W] -> [N, H, W, C]."""
  return jnp.asarray(array.transpose(0, 2, 3, 1))
