"""Chance that goes by image: what is drawn for an image is the same wherever it stands.

Noise that is drawn for a batch as a whole makes a map depend on the images beside it, on the
image's place and on the size of the batch. Here each image has a key of its own, made from the
caller's key and a number that stands for the image.
"""

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError
from attn_flax.explain.taps import as_array, check_key

# Normalized pixels are compared in steps of 1/16: wide enough that two programs, which round
# differently where they normalize the same image, do not tell it apart.
_STEPS = 16


@jax.jit
def image_numbers(images: jax.Array) -> jax.Array:
  """A number for each image, from its pixels alone: the same alone and in any batch.

  Other images have other numbers, but for one pair in some 2^32, and for normalized images that
  nowhere differ by more than some hundredths.

  Args:
    images: [N, H, W, C], normalized or uint8.

  Returns:
    [N] uint32.
  """
  if not jnp.issubdtype(images.dtype, jnp.integer):
    images = jnp.round(images.astype(jnp.float32) * _STEPS)
  weights = jax.random.bits(jax.random.key(0), images.shape[1:]) | 1
  # Modulo 2^32 a sum is exact, in whatever order a device adds.
  return (images.astype(jnp.int32).astype(jnp.uint32) * weights).sum((1, 2, 3), dtype=jnp.uint32)


def image_keys(key: jax.Array, positions: jax.Array | None, images: jax.Array) -> jax.Array:
  """A key for each image.

  Args:
    key: the caller's.
    positions: [N] int, numbers that stand for the images; None: `image_numbers`.
    images: [N, H, W, C].

  Raises:
    UserError: for what is no key, or for numbers that are not one for each image.
  """
  check_key(key)
  return keys_of(key, image_numbers(images) if positions is None else positions, len(images))


def keys_of(key: jax.Array, positions: jax.Array, count: int) -> jax.Array:
  """A key for each of `count` numbers; the errors are those of `image_keys`."""
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
