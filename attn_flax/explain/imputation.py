"""Filling removed pixels in from their neighbors.

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ICML 2022,
https://arxiv.org/abs/2202.00449): noisy linear imputation. Each removed pixel is the weighted mean
of its eight neighbors, 1/6 for those beside it and 1/12 for those at its corners, of which some
are removed, too: a system of linear equations.

Departures from the official code: at the border the weights of the neighbors that exist are used,
as there; but the system, made symmetric and positive definite by leaving those weights' sum on the
diagonal, is solved by conjugate gradients (Hestenes and Stiefel, 1952) for all images at once, on
the device and without a matrix, in place of a sparse factorization on the host.
"""

import jax
import jax.numpy as jnp
from jax import lax

# The residual's share of the right-hand side at which an image is solved. In units of the image the
# error is then some 0.0002 where scattered pixels are removed, also 99.9 % of 160x160; it grows
# with the width of a hole, to as much as 0.004 where only a corner of 10 % of 224x224 remains.
_TOLERANCE = 1e-5


def impute(images: jax.Array, removed: jax.Array) -> jax.Array:
  """Replaces removed pixels by the solution for their neighbors' weighted means.

  Args:
    images: [N, H, W, C] float32; the values of removed pixels do not matter, if finite.
    removed: [N, H, W] bool; at least one pixel of each image must remain.

  Returns:
    [N, H, W, C] float32; what is not removed is as it was.
  """
  # Channel by channel: rows of pixels are what a CPU adds at once.
  return jnp.moveaxis(_impute(jnp.moveaxis(images, -1, 1), removed[:, None]), 1, -1)


def _impute(images: jax.Array, unknown: jax.Array) -> jax.Array:
  """The same with images [N, C, H, W] and what is removed of them, [N, 1, H, W]."""
  diagonal = _neighbors(jnp.ones_like(images[:1, :1]))
  known = jnp.where(unknown, 0, images)
  # The mean of what remains is where the search starts: all that is left to find is the detail.
  remaining = (~unknown).sum((2, 3), keepdims=True)
  start = jnp.where(unknown, known.sum((2, 3), keepdims=True) / remaining, images)

  def apply(x):
    return jnp.where(unknown, diagonal * x - _neighbors(x), 0)

  def dot(a, b):
    return (a * b).sum((2, 3), keepdims=True)

  height, width = images.shape[2:]
  limit = 10 * (height + width)  # The steps needed grow with the width of the largest hole.

  def unsolved(state):
    step, _, _, _, square = state
    return (step < limit) & (square > target).any()

  def advance(state):
    step, x, residual, direction, square = state
    image = apply(direction)
    # An image that is solved stays as it is, while others go on.
    active = square > target
    rate = jnp.where(active, square / jnp.where(active, dot(direction, image), 1), 0)
    x, residual = x + rate * direction, residual - rate * image
    new_square = dot(residual, residual)
    turn = new_square / jnp.where(square > 0, square, 1)
    return step + 1, x, residual, residual + turn * direction, new_square

  residual = -apply(start)
  side = jnp.where(unknown, _neighbors(known), 0)
  # Where all that lies around the holes is 0, only the start gives a scale.
  target = _TOLERANCE**2 * jnp.maximum(dot(side, side), dot(residual, residual))
  state = (jnp.int32(0), start, residual, residual, dot(residual, residual))
  return jnp.where(unknown, lax.while_loop(unsolved, advance, state)[1], images)


def _neighbors(x: jax.Array) -> jax.Array:
  """The weighted sum of each pixel's neighbors, outside the image 0: [N, C, H, W]."""
  # The weights are those of (1, 2, 1) x (1, 2, 1) / 12 without the middle.
  return (_smooth(_smooth(x, 2), 3) - 4 * x) / 12


def _smooth(x: jax.Array, axis: int) -> jax.Array:
  """Each value twice and its two neighbors along an axis."""
  pad = [(1, 1) if place == axis else (0, 0) for place in range(x.ndim)]
  padded, size = jnp.pad(x, pad), x.shape[axis]
  before, after = (lax.slice_in_dim(padded, i, i + size, axis=axis) for i in (0, 2))
  return before + 2 * x + after
