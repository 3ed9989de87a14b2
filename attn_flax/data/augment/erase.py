"""Random erasing and cutout, which fill parts of images.

* Zhong et al., Random Erasing Data Augmentation, AAAI 2020, https://arxiv.org/abs/1708.04896
* DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
  https://arxiv.org/abs/1708.04552

Departures from the papers: both act on normalized images, so that 0 is the mean color. Noise is
drawn from a standard normal distribution, where Zhong et al. draw gray levels uniformly.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from attn_flax.data.augment.boxes import MOST_PIXELS, MOST_RATIO, draw_boxes, inside
from attn_flax.errors import UserError, check_choice, check_interval, check_range

Fill = Literal['zeros', 'noise']
AREA = (0.02, 0.4)  # Smallest and largest share of the image's area that a box covers.
RATIO = (0.3, 1 / 0.3)  # Its smallest and largest width / height.


def random_erasing(
  key: jax.Array,
  images: jax.Array,
  probability: float,
  area: tuple[float, float] = AREA,
  ratio: tuple[float, float] = RATIO,
  fill: Fill = 'zeros',
) -> jax.Array:
  """Fills a random box of some of the images.

  A box is lower and narrower than the image; an image stays whole if none of ten draws fits.

  Args:
    key: random key.
    images: [N, H, W, C] floating point, normalized.
    probability: probability that a box of an image is filled.
    area: smallest and largest share of the image's area that a box covers.
    ratio: smallest and largest width / height of a box.
    fill: 'zeros', or 'noise': a standard normal number for every pixel and channel.

  Returns:
    [N, H, W, C], same dtype.

  Raises:
    UserError: an unknown fill, or noise in images that are not floating point.
  """
  check_range('probability', probability, 0, 1)
  check_interval('area', area, 1, above=0)
  check_interval('ratio', ratio, MOST_RATIO, above=0)
  check_choice('fill', fill, get_args(Fill))
  if fill == 'noise' and not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(f'noise needs floating-point images, not {images.dtype}: normalize them first')
  count, height, width, _ = images.shape
  choice_key, box_key, noise_key = jax.random.split(key, 3)
  limit = (height - 1, width - 1)
  boxes, found = draw_boxes(box_key, count, limit, (height, width), area, ratio)
  chosen = jax.random.bernoulli(choice_key, float(probability), (count,)) & found
  erased = inside(boxes, height, width) & chosen[:, None, None, None]
  if fill == 'noise':
    return jnp.where(erased, jax.random.normal(noise_key, images.shape, images.dtype), images)
  return jnp.where(erased, 0, images)


def cutout(key: jax.Array, images: jax.Array, side: int) -> jax.Array:
  """Fills a square of each image with 0.

  Args:
    key: random key.
    images: [N, H, W, C], normalized.
    side: side of the square in pixels. Its center is a random pixel or, for an even side, the upper
      left corner of one, so that the square may reach beyond the image.

  Returns:
    [N, H, W, C], same dtype.

  Raises:
    UserError: the side is not a whole number, or out of range.
  """
  check_range('side', side, 0, MOST_PIXELS, whole=True)
  count, height, width, _ = images.shape
  center = jax.random.randint(key, (count, 2), 0, jnp.array([height, width]))
  boxes = jnp.concatenate([center - side // 2, jnp.full((count, 2), side)], axis=1)
  return jnp.where(inside(boxes, height, width), 0, images)
