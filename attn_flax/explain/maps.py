"""Maps and masks at the size of their image."""

import functools

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError
from attn_flax.layers import interpolate


def upscale(maps: jax.Array, height: int, width: int) -> jax.Array:
  """Scales maps up bilinearly; values lie at the centers of their pixels.

  Args:
    maps: [N, h, w] of any float type.
    height: H, at least h.
    width: W, at least w.

  Returns:
    [N, H, W] float32.

  Raises:
    UserError: for maps of another rank, or larger than the result.
  """
  if maps.ndim != 3 or maps.shape[1] > height or maps.shape[2] > width:
    raise UserError(
      f'maps of shape {maps.shape} cannot be scaled up to {height}x{width}; give maps [N, h, w]'
      ' that are no larger than the image'
    )
  return interpolate(interpolate(maps.astype(jnp.float32), 1, height), 2, width)


@jax.jit
def points_nowhere(maps: jax.Array) -> jax.Array:
  """Which maps [N, h, w] have no value above 0, or a value that is not finite: bool [N]."""
  return ~((maps > 0).any((1, 2)) & jnp.isfinite(maps).all((1, 2)))


@functools.partial(jax.jit, static_argnames=('height', 'width'))
def box_mask(boxes: jax.Array, height: int, width: int) -> jax.Array:
  """The pixels whose centers lie in a box.

  Args:
    boxes: [N, 4], (ymin, xmin, ymax, xmax) in 0..1.
    height: H of the images.
    width: W of the images.

  Returns:
    [N, H, W] bool.
  """
  top, left, bottom, right = (boxes[:, side, None] for side in range(4))
  y, x = (jnp.arange(height) + 0.5) / height, (jnp.arange(width) + 0.5) / width
  rows, columns = (top <= y) & (y < bottom), (left <= x) & (x < right)
  return rows[:, :, None] & columns[:, None, :]
