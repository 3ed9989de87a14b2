"""Random boxes in images, for crops and erasing: (top, left, height, width) in pixels."""

import math

import jax
import jax.numpy as jnp

from attn_flax.data.crops import TRIES

MOST_PIXELS = 2**14  # Of the side of an image.
MOST_RATIO = 1000.0  # Of the sides of a box.


def draw_boxes(
  key: jax.Array,
  count: int,
  limit: tuple[int, int],
  image_size: tuple[int, int],
  area: tuple[float, float],
  ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array]:
  """Draws a box for each image: its area, then its shape, then its place.

  The area is uniform, width / height log-uniform; sides are rounded to whole pixels. The first of
  ten draws that fits into the limit is used; its place is uniform among those possible.

  Args:
    key: random key.
    count: N, number of images.
    limit: largest height and width in pixels.
    image_size: (H, W) of the images.
    area: smallest and largest share of the image's area, before rounding.
    ratio: smallest and largest width / height, before rounding.

  Returns:
    The boxes, [N, 4] int32, and whether a draw fitted into the limit, [N] bool; where none did, the
    box is meaningless.
  """
  height, width = image_size
  # All random numbers are drawn at once: each further draw would take as long to compile.
  uniform = jax.random.uniform(key, (count, 2 * TRIES + 2))
  tries_area, tries_ratio, place = jnp.split(uniform, (TRIES, 2 * TRIES), axis=1)
  pixels = height * width * (area[0] + tries_area * (area[1] - area[0]))
  log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
  half_log_ratio = (log_low + tries_ratio * (log_high - log_low)) / 2
  # [N, 10, 2] of heights and widths.
  sides = jnp.exp(jnp.stack([-half_log_ratio, half_log_ratio], axis=-1))
  sides = jnp.round(jnp.sqrt(pixels)[..., None] * sides).astype(jnp.int32)
  fits = ((sides >= 1) & (sides <= jnp.array(limit))).all(axis=-1)
  found = fits.any(axis=1)
  first = jnp.argmax(fits, axis=1)[:, None, None]
  own = jnp.take_along_axis(sides, first, axis=1)[:, 0]
  places = jnp.maximum(jnp.array(image_size) - own + 1, 1)
  corner = jnp.floor(place * places).astype(jnp.int32)
  return jnp.concatenate([corner, own], axis=1), found


def inside(boxes: jax.Array, height: int, width: int) -> jax.Array:
  """Which pixels of images of the given size lie in the boxes.

  Args:
    boxes: [N, 4] integers; parts beyond the image are ignored.
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
