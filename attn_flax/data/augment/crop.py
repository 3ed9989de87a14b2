"""Random and central crops, and random flips.

* Pad and crop: He et al., Deep Residual Learning for Image Recognition, CVPR 2016,
  https://arxiv.org/abs/1512.03385 (section 4.2).
* Random resized crop: Szegedy et al., Going Deeper with Convolutions, CVPR 2015,
  https://arxiv.org/abs/1409.4842 (section 6); the rule for boxes that do not fit is torchvision's.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from attn_flax.data.augment.boxes import MOST_PIXELS, MOST_RATIO, draw_boxes
from attn_flax.data.crops import RATIO, SCALE
from attn_flax.errors import UserError, check_choice, check_interval, check_pair, check_range

PaddingMode = Literal['constant', 'reflect']
Size = tuple[int, int]


def random_crop(
  key: jax.Array,
  images: jax.Array,
  padding: int,
  mode: PaddingMode = 'constant',
  size: Size | None = None,
) -> jax.Array:
  """Pads each image on all sides and cuts a window from a random place.

  Args:
    key: random key.
    images: [N, H, W, C], any dtype.
    padding: pixels on each side; all possible windows are equally likely.
    mode: 'constant' pads with 0, 'reflect' with the mirrored image, its edge not repeated.
    size: (h, w) of the window; None: (H, W).

  Returns:
    [N, h, w, C], same dtype.

  Raises:
    UserError: an unknown mode, or a window larger than the padded image.
  """
  check_choice('padding mode', mode, get_args(PaddingMode))
  check_range('padding', padding, 0, MOST_PIXELS, whole=True)
  count, height, width, channels = images.shape
  if size is not None:
    _check_sides(size)
  rows, columns = size or (height, width)
  _check_size((rows, columns), (height + 2 * padding, width + 2 * padding))
  if padding:
    margin = (padding, padding)
    images = jnp.pad(images, ((0, 0), margin, margin, (0, 0)), mode=mode)
  places = jnp.array([height + 2 * padding - rows + 1, width + 2 * padding - columns + 1])
  corners = jax.random.randint(key, (count, 2), 0, places)

  def window(image: jax.Array, corner: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (rows, columns, channels))

  return jax.vmap(window)(images, corners)


def center_crop(images: jax.Array, size: Size) -> jax.Array:
  """Cuts the central window of size (h, w) from images [N, H, W, C]; returns [N, h, w, C].

  Raises:
    UserError: a window larger than the images.
  """
  _check_sides(size)
  _, height, width, _ = images.shape
  _check_size(size, (height, width))
  top, left = (height - size[0]) // 2, (width - size[1]) // 2
  return images[:, top : top + size[0], left : left + size[1]]


def random_resized_crop(
  key: jax.Array,
  images: jax.Array,
  size: Size | None = None,
  scale: tuple[float, float] = SCALE,
  ratio: tuple[float, float] = RATIO,
) -> jax.Array:
  """Cuts a random box from each image and resizes it.

  Where none of ten drawn boxes fits into the image, the box is the largest central one whose shape
  the range of ratios allows.

  Args:
    key: random key.
    images: [N, H, W, C], any dtype.
    size: (h, w) of the result; None: (H, W).
    scale: smallest and largest share of the image's area that a box covers.
    ratio: smallest and largest width / height of a box.

  Returns:
    [N, h, w, C], same dtype; integers are rounded.

  Raises:
    UserError: a size, scale or ratio out of range.
  """
  if size is not None:
    _check_sides(size)
  check_interval('scale', scale, MOST_RATIO, above=0)
  check_interval('ratio', ratio, MOST_RATIO, above=0)
  count, height, width, _ = images.shape
  boxes, found = draw_boxes(key, count, (height, width), (height, width), scale, ratio)
  rows, columns = height, width
  if width / height < ratio[0]:
    rows = round(width / ratio[0])
  elif width / height > ratio[1]:
    columns = round(height * ratio[1])
  central = jnp.array([(height - rows) // 2, (width - columns) // 2, rows, columns])
  return resize_boxes(images, jnp.where(found[:, None], boxes, central), size or (height, width))


def resize_boxes(images: jax.Array, boxes: jax.Array, size: Size) -> jax.Array:
  """Cuts a box from each image and resizes it bilinearly, with antialiasing where it shrinks.

  Pixels outside the box do not count, as when an image is first cropped and then resized; the
  filter of `jax.image.scale_and_translate` would reach across the border.

  Args:
    images: [N, H, W, C], any dtype.
    boxes: [N, 4] integers (top, left, height, width), within the images and not empty.
    size: (h, w) of the result.

  Returns:
    [N, h, w, C], same dtype; integers are rounded.
  """
  across = _resize_weights(boxes[:, 0], boxes[:, 2], images.shape[1], size[0])
  along = _resize_weights(boxes[:, 1], boxes[:, 3], images.shape[2], size[1])
  resized = jnp.einsum(
    'nyh,nhwc,nxw->nyxc',
    across,
    images.astype(jnp.float32),
    along,
    precision=jax.lax.Precision.HIGHEST,  # By default TPUs would be off by about two gray levels.
  )
  if jnp.issubdtype(images.dtype, jnp.integer):
    resized = jnp.round(resized)
  return resized.astype(images.dtype)


def _resize_weights(start: jax.Array, extent: jax.Array, before: int, after: int) -> jax.Array:
  """The weight of each of `before` pixels in each of `after`: [N, after, before], rows sum to 1.

  The filter is a triangle scaled to an output pixel, or to an input pixel where that is wider, and
  cut off at the ends of the box.
  """
  scale = extent[:, None, None] / after
  center = start[:, None, None] + (jnp.arange(after)[:, None] + 0.5) * scale
  pixel = jnp.arange(before)
  weights = jnp.maximum(0, 1 - jnp.abs(pixel + 0.5 - center) / jnp.maximum(scale, 1))
  start, extent = start[:, None, None], extent[:, None, None]
  weights = jnp.where((pixel >= start) & (pixel < start + extent), weights, 0)
  return weights / weights.sum(axis=-1, keepdims=True)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors each of images [N, H, W, C] from left to right with probability 1/2."""
  is_flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
  return jnp.where(is_flipped, images[:, :, ::-1], images)


def _check_size(size: Size, available: Size) -> None:
  if not (1 <= size[0] <= available[0] and 1 <= size[1] <= available[1]):
    raise UserError(
      f'a window of {size[0]} x {size[1]} pixels does not fit into images of '
      f'{available[0]} x {available[1]}: choose a smaller one'
    )


def _check_sides(size: object) -> None:
  """Raises `UserError` unless `size` is a height and a width in pixels."""
  for i, side in enumerate(check_pair('size', size)):
    check_range(f'size[{i}]', side, 1, MOST_PIXELS, whole=True)
