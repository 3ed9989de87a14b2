"""Filling in removed pixels from their neighbors.

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ICML 2022,
https://arxiv.org/abs/2202.00449): noisy linear imputation. Each removed pixel is the weighted mean
of its eight neighbors, 1/6 for those beside it and 1/12 for those at its corners. As some of them
are removed, too, this is a system of linear equations. At the border, only the neighbors that exist
have weights.

Departures from the official code: the system is solved by conjugate gradients (Hestenes and
Stiefel, 1952) for all images at once, on the device and without a matrix, in place of a sparse
factorization on the host. For this it is made symmetric and positive definite: the diagonal holds
the sum of each pixel's weights.
"""

import jax
import jax.numpy as jnp
from jax import lax

# An image is solved when its residual is this share of the right-hand side. In units of the image
# the error is then about 0.0002 where scattered pixels are removed, even 99.9 % of 160x160. It
# grows with the width of a hole, to 0.004 where only a corner of 10 % of 224x224 remains.
_TOLERANCE = 1e-5

_State = tuple[jax.Array | int, jax.Array, jax.Array, jax.Array, jax.Array]


def impute(images: jax.Array, removed: jax.Array) -> jax.Array:
  """Replaces removed pixels by the weighted means of their neighbors, removed ones included.

  Args:
    images: [N, H, W, C] float32; the values of removed pixels do not matter, if finite.
    removed: [N, H, W] bool; at least one pixel of each image must remain.

  Returns:
    [N, H, W, C] float32; pixels that are not removed stay as they are.
  """
  # Channels first: a CPU adds rows of pixels of one channel fastest.
  return jnp.moveaxis(_impute(jnp.moveaxis(images, -1, 1), removed[:, None]), 1, -1)


def _impute(images: jax.Array, unknown: jax.Array) -> jax.Array:
  """As `impute`, with images [N, C, H, W] and removed pixels [N, 1, H, W]."""
  diagonal = _neighbors(jnp.ones_like(images[:1, :1]))
  known = jnp.where(unknown, 0, images)
  # The search starts at the mean of the pixels that remain, so that only detail is left to find.
  remaining = (~unknown).sum((2, 3), keepdims=True)
  start = jnp.where(unknown, known.sum((2, 3), keepdims=True) / remaining, images)

  def apply(x: jax.Array) -> jax.Array:
    return jnp.where(unknown, diagonal * x - _neighbors(x), 0)

  def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a * b).sum((2, 3), keepdims=True)

  height, width = images.shape[2:]
  limit = 10 * (height + width)  # The number of steps grows with the width of the largest hole.

  def unsolved(state: _State) -> jax.Array:
    step, _, _, _, square = state
    return (step < limit) & (square > target).any()

  def advance(state: _State) -> _State:
    step, x, residual, direction, square = state
    image = apply(direction)
    # A solved image stays as it is while others are still being solved.
    active = square > target
    rate = jnp.where(active, square / jnp.where(active, dot(direction, image), 1), 0)
    x, residual = x + rate * direction, residual - rate * image
    new_square = dot(residual, residual)
    turn = new_square / jnp.where(square > 0, square, 1)
    return step + 1, x, residual, residual + turn * direction, new_square

  residual = -apply(start)
  side = jnp.where(unknown, _neighbors(known), 0)
  # Where all pixels around the holes are 0, only the first residual gives a scale.
  target = _TOLERANCE**2 * jnp.maximum(dot(side, side), dot(residual, residual))
  state = (jnp.int32(0), start, residual, residual, dot(residual, residual))
  return jnp.where(unknown, lax.while_loop(unsolved, advance, state)[1], images)


def _neighbors(x: jax.Array) -> jax.Array:
  """The weighted sum of each pixel's neighbors, 0 outside the image: [N, C, H, W]."""
  # The weights are those of (1, 2, 1) x (1, 2, 1) / 12 without the middle.
  return (_smooth(_smooth(x, 2), 3) - 4 * x) / 12


def _smooth(x: jax.Array, axis: int) -> jax.Array:
  """Twice each value plus its two neighbors along an axis."""
  pad = [(1, 1) if place == axis else (0, 0) for place in range(x.ndim)]
  padded, size = jnp.pad(x, pad), x.shape[axis]
  before, after = (lax.slice_in_dim(padded, i, i + size, axis=axis) for i in (0, 2))
  return before + 2 * x + after
