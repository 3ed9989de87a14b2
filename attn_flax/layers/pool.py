"""Pooling and interpolation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


def max_pool(
  x: jax.Array, window: int, stride: int, padding: int, *, round_up: bool = False
) -> jax.Array:
  """PyTorch's `MaxPool2d` on [N, H, W, C].

  Args:
    x: [N, H, W, C].
    window: height and width of the window.
    stride: step in both directions.
    padding: pixels of -inf on each side.
    round_up: whether the size of the result is rounded up, as with PyTorch's `ceil_mode`.

  Returns:
    [N, h, w, C] of the largest values.
  """
  ends = [padding, padding]
  if round_up:
    for axis, size in enumerate(x.shape[1:3]):
      outputs = -(-(size + 2 * padding - window) // stride) + 1
      ends[axis] = (outputs - 1) * stride + window - size - padding
  pads = ((padding, ends[0]), (padding, ends[1]))
  return nn.max_pool(x, (window, window), (stride, stride), pads)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(x: jax.Array, axis: int) -> jax.Array:
  """The maximum along an axis; entries that equal it up to rounding share its gradient.

  XLA may compute `x` again for the gradient, with other rounding errors. The gradient of `jnp.max`
  then may find no entry that equals the maximum, divides by their number, 0, and returns NaN.
  """
  return x.max(axis)


@largest.defjvp
def _largest_jvp(
  axis: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  (x,), (dx,) = primals, tangents
  y = largest(x, axis)
  near = y - jnp.finfo(x.dtype).eps * jnp.abs(y)
  equal = x >= jnp.expand_dims(near, axis)
  total = jnp.where(equal, dx, 0).sum(axis)
  return y, (total / jnp.maximum(equal.sum(axis), 1)).astype(y.dtype)


def halve(x: jax.Array) -> jax.Array:
  """2x2 average pool of stride 2, [N, H, W, C] -> [N, ceil(H / 2), ceil(W / 2), C].

  As PyTorch's `AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)`: an odd last row or column
  is averaged over the pixels that exist.
  """
  odd = ((0, x.shape[1] % 2), (0, x.shape[2] % 2))
  return nn.avg_pool(x, (2, 2), (2, 2), odd, count_include_pad=False)


def interpolate(x: jax.Array, axis: int, length: int) -> jax.Array:
  """Linear interpolation to `length` along one axis; values lie at the centers of their pixels.

  The values are those of `jax.image.resize`, but without a matrix product, which the costs would
  count as that of a layer. Between equal neighbors the result is exactly their value, because
  rounding errors would otherwise rank the pixels of a flat part of a map.
  """
  size = x.shape[axis]
  if size == length:
    return x
  places = ((jnp.arange(length) + 0.5) * (size / length) - 0.5).clip(0, size - 1)
  low = places.astype(jnp.int32)
  share = jnp.expand_dims(places - low, [a for a in range(x.ndim) if a != axis]).astype(x.dtype)
  start, end = x.take(low, axis), x.take(jnp.minimum(low + 1, size - 1), axis)
  return start + share * (end - start)
