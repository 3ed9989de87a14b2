"""Maps at the size of the image that they explain."""

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError
from attn_flax.layers import interpolate


def upscale(maps: jax.Array, height: int, width: int) -> jax.Array:
  """Scales maps up bilinearly, the values standing in the middles of their pixels.

  Args:
    maps: [N, h, w] of any float type.
    height: H, at least h.
    width: W, at least w.

  Returns:
    [N, H, W] float32.

  Raises:
    UserError: maps of another rank, or larger than the result.
  """
  if maps.ndim != 3 or maps.shape[1] > height or maps.shape[2] > width:
    raise UserError(
      f'maps of shape {maps.shape} cannot be scaled up to {height}x{width}; give maps [N, h, w]'
      ' that are no larger than the image'
    )
  return interpolate(interpolate(maps.astype(jnp.float32), 1, height), 2, width)
