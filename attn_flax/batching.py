"""Explaining data of any size, one batch after the other."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import jax
import numpy as np

from attn_flax.errors import MOST_SEED, UserError, check_counts, check_flags, shown

# A pytree of arrays, or None.
Result = TypeVar('Result')


def in_batches(
  function: Callable[..., Result],
  *arrays: np.ndarray | Iterable,
  batch_size: int = 64,
  pad: bool = False,
) -> Result:
  """Calls a function on slices of arrays, and joins the results on the host.

  All slices have one shape, the last being filled up with its last example, so that a compiled
  function is traced once; what belongs to the filling is removed. Device memory is that of one
  batch.

  Example:
    >>> explain = functools.partial(grad_cam, model, variables)
    >>> maps = in_batches(explain, images, labels)

  Args:
    function: called with one slice of each array; returns arrays [n, ...] in any pytree, or None.
      Make it once (a new lambda under `jax.jit` is traced anew at each call).
    *arrays: arrays of equal length, on the host or memory-mapped. Or, in their place, one iterable
      over batches (an array or a tuple of arrays each), as a pipeline over a folder yields them; no
      batch may be longer than the first, and `batch_size` and `pad` are not used.
    batch_size: examples of one call.
    pad: whether fewer examples than `batch_size` are filled up, too, so that calls for data of
      several lengths trace a compiled function once.

  Returns:
    What the function returns, as NumPy arrays over all examples.

  Raises:
    UserError: for arrays of different lengths, no example, or a batch size below 1.
  """
  check_counts('', MOST_SEED, batch_size=batch_size)
  check_flags(pad=pad)
  for array in arrays:
    is_array = getattr(array, 'shape', ()) or isinstance(array, list | tuple)
    if not is_array and not (len(arrays) == 1 and _is_stream(array)):
      raise UserError(f'arrays={shown(array)} are none; give arrays, or one iterable over batches')
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
        f'a batch of {real} follows a first one of {size}; give no batch that is longer'
      )
    if not real:
      continue
    if real < size:
      rows = np.minimum(np.arange(size), real - 1)
      batch = tuple(np.take(array, rows, axis=0) for array in batch)
    result = function(*batch)
    results.append(jax.tree.map(lambda y, real=real: np.asarray(y)[:real], result))
  if not results:
    raise UserError('no example to explain; give at least one image')
  return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def _is_stream(values: object) -> bool:
  return isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping)


def _slices(arrays: tuple, batch_size: int) -> Iterator[tuple]:
  """The batches of some arrays; the last may be shorter, and the first where there is but one."""
  for start in range(0, _length(arrays), batch_size):
    yield tuple(array[start : start + batch_size] for array in arrays)


def _length(arrays: tuple) -> int:
  for array in arrays:
    if not hasattr(array, '__len__') or getattr(array, 'shape', None) == ():
      raise UserError(f'arrays={shown(array)} are none; give batches of arrays')
  lengths = {len(array) for array in arrays}
  if len(lengths) != 1:
    raise UserError(
      f'arrays of lengths {sorted(lengths)} cannot be explained together; give equal lengths'
    )
  return lengths.pop()
