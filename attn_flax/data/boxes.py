"""Boxes in images, as crops and erased parts need them: (top, left, height, width) in pixels."""

import math

import jax
import jax.numpy as jnp

_TRIES = 10  # As torchvision's.


def draw_boxes(
  key: jax.Array,
  count: int,
  limit: tuple[int, int],
  image_size: tuple[int, int],
  area: tuple[float, float],
  ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array]:
  """Draws a box for each image: its share of the image, then its shape, then its place.

  The share is uniform, width / height log-uniform; sides are rounded to whole pixels. Of ten
  draws the first that keeps to the limit counts; its place is uniform among those possible.

  Args:
    key: random key.
    count: N, number of images.
    limit: largest height and width in pixels.
    image_size: (H, W) of the images.
    area: least and largest share of the image, before rounding.
    ratio: least and largest width / height, before rounding.

  Returns:
    [N, 4] int32 and [N] bool: whether a draw kept to the limit; where none did, the box is void.
  """
  height, width = image_size
  area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
  shape = (count, _TRIES)
  pixels = height * width * jax.random.uniform(area_key, shape, minval=area[0], maxval=area[1])
  log_ratio = jax.random.uniform(
    ratio_key, shape, minval=math.log(ratio[0]), maxval=math.log(ratio[1])
  )
  widths = jnp.round(jnp.sqrt(pixels * jnp.exp(log_ratio))).astype(jnp.int32)
  heights = jnp.round(jnp.sqrt(pixels * jnp.exp(-log_ratio))).astype(jnp.int32)
  fits = (heights >= 1) & (heights <= limit[0]) & (widths >= 1) & (widths <= limit[1])
  first = jnp.argmax(fits, axis=1, keepdims=True)
  found = fits.any(axis=1)
  own_height, own_width = (
    jnp.where(found, jnp.take_along_axis(sides, first, axis=1)[:, 0], 0)
    for sides in (heights, widths)
  )
  top = jax.random.randint(top_key, (count,), 0, height - own_height + 1)
  left = jax.random.randint(left_key, (count,), 0, width - own_width + 1)
  return jnp.stack([top, left, own_height, own_width], axis=1), found


def inside(boxes: jax.Array, height: int, width: int) -> jax.Array:
  """Which pixels of images of the given size lie in the boxes.

  Args:
    boxes: [N, 4] integers; what reaches beyond the image is cut off.
    height: H in pixels.
    width: W in pixels.

  Returns:
    [N, H, W, 1] bool.
  """
  top, left, rows, columns = (boxes[:, i, None] for i in range(4))
  y, x = jnp.arange(height), jnp.arange(width)
  in_rows = (y >= top) & (y < top + rows)
  in_columns = (x >= left) & (x < left + columns)
  return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]
