"""Maps that do not depend on the image: what an explanation has to beat.

Objects are mostly in the middle of photographs, so that a map which always points there scores
well on localization. Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018,
https://arxiv.org/abs/1810.03292), show why scores without controls mislead.
"""

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError


def random_maps(key: jax.Array, n: int, height: int, width: int) -> jax.Array:
  """Uniform noise in 0..1, [n, height, width] float32; equal keys give equal maps."""
  return jax.random.uniform(key, (n, height, width))


def centered_gaussian(height: int, width: int, sigma: float = 0.25) -> jax.Array:
  """A hill in the middle of the image.

  Args:
    height: H.
    width: W.
    sigma: its standard deviation, as a share of each side.

  Returns:
    [H, W] float32, at most 1.

  Raises:
    UserError: a sigma that is not positive.
  """
  if not sigma > 0:
    raise UserError(
      f'sigma={sigma} is not allowed; give a positive share of the side, such as 0.25'
    )
  y, x = (((jnp.arange(size) + 0.5) / size - 0.5) / sigma for size in (height, width))
  return jnp.exp(-(y[:, None] ** 2 + x**2) / 2)


def best_fixed_map(masks: jax.Array) -> jax.Array:
  """How often each pixel lies on the object: the best that one map for all images can say.

  Its maximum is the pixel that wins the pointing game most often. Take the masks from the
  validation split: those of the test images would know too much.

  Args:
    masks: [M, H, W] bool.

  Returns:
    [H, W] float32 in 0..1.

  Raises:
    UserError: no masks.
  """
  if masks.ndim != 3 or not len(masks):
    raise UserError(f'masks have shape {masks.shape}; give at least one, [M, H, W]')
  return masks.astype(jnp.float32).mean(0)
