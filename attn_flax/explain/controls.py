"""Maps that do not depend on the image, which explanations must beat.

Objects are mostly in the middle of photographs, so that a map that always points there scores well
on localization. Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018,
https://arxiv.org/abs/1810.03292), show why scores without controls mislead.
"""

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError, check_counts, check_range
from attn_flax.explain.chance import keys_of
from attn_flax.explain.taps import as_array, check_key

# Shares of a side: narrower Gaussians miss all pixels, wider ones are flat.
_LEAST_SIGMA, _MOST_SIGMA = 1e-3, 1e3


def random_maps(
  key: jax.Array, n: int, height: int, width: int, *, positions: jax.Array | None = None
) -> jax.Array:
  """Uniform noise in 0..1, [n, height, width] float32; equal keys give equal maps.

  Args:
    key: a random key.
    n: number of maps.
    height: height of each map, in pixels.
    width: width of each map, in pixels.
    positions: [n] int, numbers that identify the images, such as `chance.image_numbers`, so that an
      image gets the same map in any batch; None: 0 to n - 1.

  Raises:
    UserError: for a size below 1, or positions that are not one whole number per map.
  """
  check_key(key)
  check_counts(n=n, height=height, width=width)
  keys = keys_of(key, jnp.arange(n) if positions is None else positions, n)
  return jax.vmap(lambda one: jax.random.uniform(one, (height, width)))(keys)


def centered_gaussian(height: int, width: int, sigma: float = 0.25) -> jax.Array:
  """A Gaussian in the middle of the image.

  Args:
    height: H.
    width: W.
    sigma: its standard deviation, as a share of each side.

  Returns:
    [H, W] float32, at most 1.

  Raises:
    UserError: for a size below 1, or a sigma that is not positive.
  """
  check_counts(height=height, width=width)
  check_range('sigma', sigma, _LEAST_SIGMA, _MOST_SIGMA)
  y, x = (((jnp.arange(size) + 0.5) / size - 0.5) / sigma for size in (height, width))
  return jnp.exp(-(y[:, None] ** 2 + x**2) / 2)


def best_fixed_map(masks: jax.Array) -> jax.Array:
  """How often each pixel lies on the object: the best map that is the same for all images.

  Its maximum is the pixel that wins the pointing game most often. Take the masks of the validation
  split; those of the test images would give the map an unfair advantage.

  Args:
    masks: [M, H, W] bool.

  Returns:
    [H, W] float32 in 0..1.

  Raises:
    UserError: for masks of another shape, or no masks.
  """
  array = as_array('masks', masks)
  if array.ndim != 3 or not len(array):
    raise UserError(f'masks have shape {array.shape}; give at least one, [M, H, W]')
  return jnp.asarray(array, jnp.float32).mean(0)
