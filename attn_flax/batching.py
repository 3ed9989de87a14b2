"""Calls functions on data of any size, one batch after the other."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from attn_flax.errors import MOST_SEED, UserError, check_counts, check_flags, shown

# A pytree of NumPy arrays, or None.
Result = Any


def in_batches(
  function: Callable[..., object],
  *arrays: np.ndarray | Iterable,
  batch_size: int = 64,
  pad: bool = False,
) -> Result:
  """Calls a function on slices of arrays, and joins the results on the host.

  All slices have the same shape, so that a compiled function is traced once: the last slice is
  filled up with copies of its last example, whose results are removed. Only one batch at a time
  takes device memory.

  Example:
    >>> explain = functools.partial(grad_cam, model, variables)
    >>> maps = in_batches(explain, images, labels)

  Args:
    function: called with one slice of each array; returns arrays [n, ...] in any pytree, or None.
      Reuse one compiled function: a new lambda under `jax.jit` is traced anew at each call.
    *arrays: arrays of equal length, on the host or memory-mapped. Or, in their place, one iterable
      over batches (an array or a tuple of arrays each), as a pipeline over a folder yields them; no
      batch may be longer than the first, and `batch_size` and `pad` are not used.
    batch_size: examples per call.
    pad: whether data with fewer examples than `batch_size` is filled up, too, so that data of
      different lengths shares one compiled function.

  Returns:
    The results of the function as NumPy arrays over all examples.

  Raises:
    UserError: for arguments that are not arrays, arrays of different lengths, no examples, a batch
      that is longer than the first, or a batch size below 1.
  """
  check_counts(MOST_SEED, batch_size=batch_size)
  check_flags(pad=pad)
  for array in arrays:
    is_array = getattr(array, 'shape', ()) or isinstance(array, list | tuple)
    if not is_array and not (len(arrays) == 1 and _is_stream(array)):
      raise UserError(
        f'arrays={shown(array)} is impossible; give arrays, or one iterable over batches'
      )
  slices: Iterator[tuple]
  if len(arrays) == 1 and not hasattr(arrays[0], 'shape'):
    slices = (batch if isinstance(batch, tuple) else (batch,) for batch in arrays[0])
    size = 0
  else:
    slices = _slices(arrays, batch_size)
    size = batch_size if pad else 0
  results = []
  for batch in slices:
    real = _length(batch)
    size = size or real
    if real > size:
      raise UserError(
        f'a batch of {real} follows a first one of {size}; give batches no longer than the first'
      )
    if not real:
      continue
    if real < size:
      rows = np.minimum(np.arange(size), real - 1)
      batch = tuple(np.take(array, rows, axis=0) for array in batch)
    result = function(*batch)
    results.append(jax.tree.map(lambda y, real=real: np.asarray(y)[:real], result))
  if not results:
    raise UserError('the data has no examples; give at least one image')
  return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def _is_stream(values: object) -> bool:
  return isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping)


def _slices(arrays: tuple, batch_size: int) -> Iterator[tuple]:
  """The batches of some arrays; the last one may be shorter."""
  for start in range(0, _length(arrays), batch_size):
    yield tuple(array[start : start + batch_size] for array in arrays)


def _length(arrays: tuple) -> int:
  for array in arrays:
    if not hasattr(array, '__len__') or getattr(array, 'shape', None) == ():
      raise UserError(f'arrays={shown(array)} is impossible; give batches of arrays')
  lengths = {len(array) for array in arrays}
  if len(lengths) != 1:
    raise UserError(
      f'arrays of lengths {sorted(lengths)} do not belong together; give arrays of equal length'
    )
  return lengths.pop()
