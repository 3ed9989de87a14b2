"""Maps at the size of the image that they explain."""

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError


def upscale(maps: jax.Array, height: int, width: int) -> jax.Array:
  """Scales maps up bilinearly, the values standing in the middles of their pixels.

  Where neighbours are equal the result is exactly that value, which `jax.image.resize` does not
  keep: rounding would otherwise put flat parts of a map into some order.

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
  rows = _stretch(maps.astype(jnp.float32), height)
  return _stretch(rows.swapaxes(1, 2), width).swapaxes(1, 2)


def _stretch(x: jax.Array, length: int) -> jax.Array:
  """Interpolates along axis 1."""
  size = x.shape[1]
  if size == length:
    return x
  places = ((jnp.arange(length) + 0.5) * (size / length) - 0.5).clip(0, size - 1)
  low = places.astype(jnp.int32)
  start, end = x[:, low], x[:, jnp.minimum(low + 1, size - 1)]
  return start + (places - low)[:, None] * (end - start)
