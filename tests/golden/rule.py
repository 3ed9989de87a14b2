"""The rule that rebuilds weights and input of the golden networks, so that files stay small."""

import json
import math
import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / 'networks'
_SEED = 7  # of the input


def make_input(size: int) -> np.ndarray:
  """Returns the input, [2, 3, size, size] of float32."""
  return np.random.default_rng(_SEED).standard_normal((2, 3, size, size)).astype(np.float32)


def make_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the tensor that the rule gives to a name.

  Args:
    name: Key in the state dict, as stored.
    shape: Shape of the tensor.

  Returns:
    An array of float32; of int64 for a counter of batches.
  """
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  last = name.rpartition('.')[2]
  if last == 'num_batches_tracked':
    return np.zeros(shape, np.int64)
  if last in ('running_mean', 'bias'):
    value = 0.1 * rng.standard_normal(shape)
  elif last == 'running_var':
    value = rng.uniform(0.5, 1.5, shape)
  elif len(shape) <= 1:
    value = rng.uniform(0.3, 0.8, shape)
  else:
    value = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
  return value.astype(np.float32)


def load(name: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
  """State dict, input [2, 3, size, size] and logits [2, classes] of a golden network."""
  with np.load(FOLDER / f'{name}.npz') as file:
    keys, size, logits = json.loads(str(file['keys'])), int(file['size']), file['logits']
  return {key: make_weight(key, tuple(shape)) for key, shape in keys}, make_input(size), logits
