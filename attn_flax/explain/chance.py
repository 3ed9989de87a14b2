"""Random numbers per image: what is drawn for an image is the same in any batch.

Noise that is drawn for a whole batch makes a map depend on the other images, on the image's
position and on the size of the batch. Here each image has its own key, made of the caller's key
and a number that identifies the image.
"""

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError
from attn_flax.explain.taps import as_array, check_key

# Normalized pixels are rounded to multiples of 1/16: wide steps, so that an image has the same
# number in two programs that normalize it with different rounding errors.
_STEPS = 16


@jax.jit
def image_numbers(images: jax.Array) -> jax.Array:
  """A number for each image, from its pixels alone: the same alone and in any batch.

  Different images have different numbers, except for about one pair in 2^32. Normalized images that
  differ by no more than a few hundredths in any pixel may have the same number.

  Args:
    images: [N, H, W, C], normalized or uint8.

  Returns:
    [N] uint32.
  """
  if not jnp.issubdtype(images.dtype, jnp.integer):
    images = jnp.round(images.astype(jnp.float32) * _STEPS)
  weights = jax.random.bits(jax.random.key(0), images.shape[1:]) | 1
  # A sum modulo 2^32 is exact, in whatever order a device adds.
  return (images.astype(jnp.int32).astype(jnp.uint32) * weights).sum((1, 2, 3), dtype=jnp.uint32)


def image_keys(key: jax.Array, positions: jax.Array | None, images: jax.Array) -> jax.Array:
  """A key for each image.

  Args:
    key: the caller's random key.
    positions: [N] int, numbers that identify the images; None: `image_numbers`.
    images: [N, H, W, C].

  Returns:
    [N] keys.

  Raises:
    UserError: for a key that is not a random key, or positions that are not one whole number per
      image.
  """
  check_key(key)
  return keys_of(key, image_numbers(images) if positions is None else positions, len(images))


def keys_of(key: jax.Array, positions: jax.Array, count: int) -> jax.Array:
  """A key for each of `count` positions, [count]; the errors are those of `image_keys`."""
  check_key(key)
  numbers = as_array('positions', positions)
  if numbers.shape != (count,) or not jnp.issubdtype(numbers.dtype, jnp.integer):
    raise UserError(
      f'positions of shape {numbers.shape} and type {numbers.dtype} do not fit {count} images; '
      'give one whole number for each'
    )
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers))


def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal noise of a shape for each key, [N, *shape] float32."""
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
