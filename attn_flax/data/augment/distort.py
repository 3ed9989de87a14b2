"""The operations of AutoAugment and RandAugment on uint8 images, each image with one of its own.

Cubuk et al., AutoAugment: Learning Augmentation Strategies from Data, CVPR 2019,
https://arxiv.org/abs/1805.09501. Each gives the pixels that Pillow gives.

As each image has an operation of its own, every operation is computed for the whole batch, and so
they are made cheap: translations, shears and rotations share one look-up of pixels; brightness,
color and contrast share one blend; most others are one pass over uint8.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from attn_flax.data.augment.boxes import inside
from attn_flax.data.augment.color import luma

# The meaning of each operation's argument; '' where it has none.
OPERATIONS = {
  'identity': '',
  'auto_contrast': '',
  'equalize': '',
  'invert': '',
  'rotate': 'degrees, counter-clockwise',
  'posterize': 'bits that are kept, 0..8',
  'solarize': 'least gray value that is inverted',
  'solarize_add': 'added to gray values below 128',
  'color': 'factor: 0 is gray, 1 no change',
  'contrast': 'factor: 0 is evenly gray, 1 no change',
  'brightness': 'factor: 0 is black, 1 no change',
  'sharpness': 'factor: 0 is smoothed, 1 no change',
  'shear_x': 'columns per row, to the left',
  'shear_y': 'rows per column, upwards',
  'translate_x': 'columns, to the left',
  'translate_y': 'rows, upwards',
  'cutout': 'half the side of the square in pixels',
}
_GEOMETRIC = ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')
_GREY = 128  # The gray of pixels moved in from outside, and of those that cutout fills.

Stage = Callable[[jax.Array], jax.Array]


def distort(
  pixels: jax.Array,
  operation: jax.Array,
  argument: jax.Array,
  center: jax.Array,
  among: Sequence[str] = tuple(OPERATIONS),
) -> jax.Array:
  """Applies one operation to each image.

  Args:
    pixels: [N, H, W, C] uint8, with one or three channels.
    operation: [N] positions in `OPERATIONS`.
    argument: [N] float32, see `OPERATIONS`.
    center: [N, 2] row and column of the center of the square of `cutout`.
    among: the operations that may occur; the others are not computed.

  Returns:
    [N, H, W, C] uint8.
  """
  argument = argument[:, None, None, None]
  chosen = {
    name: (operation == code)[:, None, None, None]
    for code, name in enumerate(OPERATIONS)
    if name in among
  }

  def own(name: str) -> jax.Array:
    """The argument where the image undergoes this operation, else 0: [N or 1, 1, 1, 1]."""
    return jnp.where(chosen[name], argument, 0) if name in chosen else jnp.zeros((1, 1, 1, 1))

  # Each image is changed by only one stage, so that the order of the stages does not matter.
  stages: list[Stage] = [lambda pixels: _recolored(pixels, chosen, argument)]
  if 'cutout' in chosen:
    stages.append(lambda pixels: _cut(pixels, center, own('cutout')[:, :, 0, 0].astype(jnp.int32)))
  if 'sharpness' in chosen:
    stages.append(lambda pixels: _sharpened(pixels, jnp.where(chosen['sharpness'], argument, 1)))
  if 'auto_contrast' in chosen:
    stages.append(lambda pixels: jnp.where(chosen['auto_contrast'], _stretched(pixels), pixels))
  if 'equalize' in chosen:
    stages.append(lambda pixels: jnp.where(chosen['equalize'], _equalized(pixels), pixels))
  if not chosen.keys().isdisjoint(_GEOMETRIC):
    stages.append(lambda pixels: _moved(pixels, *(own(name)[..., 0] for name in _GEOMETRIC)))
  return jax.lax.platform_dependent(
    pixels,
    cpu=functools.partial(_in_turn, stages),
    default=functools.partial(_at_once, stages),
  )


def _at_once(stages: Sequence[Stage], pixels: jax.Array) -> jax.Array:
  """Applies all stages, which XLA may fuse."""
  for stage in stages:
    pixels = stage(pixels)
  return pixels


def _in_turn(stages: Sequence[Stage], pixels: jax.Array) -> jax.Array:
  """Applies all stages in a loop, which XLA cannot fuse.

  On CPU, XLA would fuse a look-up with the operations around it and compute them pixel by pixel,
  which takes ten times as long. On a GPU each iteration of the loop would wait for the host.
  """
  return jax.lax.fori_loop(
    0, len(stages), lambda i, pixels: jax.lax.switch(i, stages, pixels), pixels
  )


def _cut(pixels: jax.Array, center: jax.Array, half: jax.Array) -> jax.Array:
  """Fills squares of sides 2 * half, [N, 1], around their centers, [N, 2], with gray."""
  boxes = jnp.concatenate([center - half, 2 * half, 2 * half], axis=1)
  return jnp.where(inside(boxes, *pixels.shape[1:3]), jnp.uint8(_GREY), pixels)


def _sharpened(pixels: jax.Array, factor: jax.Array) -> jax.Array:
  """Blends with the mean of 3 x 3 pixels, the central one counted five times: Pillow's SMOOTH."""
  count, height, width, channels = pixels.shape
  if height < 3 or width < 3:
    return pixels  # Every pixel is at the border, and stays as it is.
  # Columns and channels in one axis: neighbors are then `channels` apart, and the axis is long.
  flat = pixels.reshape(count, height, width * channels)
  values = flat.astype(jnp.int32)
  rows = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
  total = rows[:, :, : -2 * channels] + rows[:, :, channels:-channels] + rows[:, :, 2 * channels :]
  inner = values[:, 1:-1, channels:-channels]
  smooth = _quotient(2 * (total + 4 * inner) + 13, 26)  # Divided by 13 and rounded.
  blended = _blend(smooth, inner, factor[..., 0])
  return flat.at[:, 1:-1, channels:-channels].set(blended).reshape(pixels.shape)


def _recolored(pixels: jax.Array, chosen: dict[str, jax.Array], argument: jax.Array) -> jax.Array:
  """Applies the operations that change a pixel regardless of its neighbors."""
  whole = argument.astype(jnp.int32)
  kept = ((0xFF00 >> whole) & 0xFF).astype(jnp.uint8)

  def mean_gray() -> jax.Array:
    mean = luma(pixels).mean(axis=(1, 2), keepdims=True, dtype=jnp.float32)
    return jnp.floor(mean + 0.5).astype(jnp.int32)

  blends: dict[str, Callable[[], jax.Array | int]] = {
    'brightness': lambda: 0,
    'color': lambda: luma(pixels),
    'contrast': mean_gray,
  }
  zero, factor = jnp.zeros_like(whole), jnp.ones_like(argument)
  for name, dull in blends.items():
    if name in chosen:
      zero = jnp.where(chosen[name], dull(), zero)
      factor = jnp.where(chosen[name], argument, factor)
  result = _blend(zero, pixels, factor)  # At factor 1, the pixels as they are.
  others = {
    'invert': 255 - pixels,
    'posterize': pixels & kept,
    'solarize': jnp.where(pixels < whole, pixels, 255 - pixels),
    'solarize_add': jnp.where(pixels < 128, _clipped(pixels + whole), pixels),
  }
  for name, other in others.items():
    if name in chosen:
      result = jnp.where(chosen[name], other, result)
  return result


def _moved(
  pixels: jax.Array,
  degrees: jax.Array,
  shear_x: jax.Array,
  shear_y: jax.Array,
  shift_x: jax.Array,
  shift_y: jax.Array,
) -> jax.Array:
  """Rotates, shears or translates images by nearest neighbor.

  The arguments are [N, 1, 1], and for each image at most one is not 0. Rotations are about the
  center, shears about the upper left corner.
  """
  count, height, width, channels = pixels.shape
  x = jnp.arange(width) + 0.5
  y = jnp.arange(height)[:, None] + 0.5
  cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
  from_x, from_y = x - width / 2, y - height / 2
  column = cos * from_x - sin * from_y + width / 2 + shear_x * y + shift_x
  row = sin * from_x + cos * from_y + height / 2 + shear_y * x + shift_y
  column, row = (jnp.floor(place).astype(jnp.int32) for place in (column, row))
  is_inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
  place = jnp.where(is_inside, row * width + column, 0)
  flat = pixels.reshape(count, -1, channels)
  place = jnp.broadcast_to(place, (count, height, width)).reshape(count, -1, 1)
  moved = jnp.take_along_axis(flat, place, axis=1, mode='promise_in_bounds')
  return jnp.where(is_inside[..., None], moved.reshape(pixels.shape), jnp.uint8(_GREY))


def _stretched(pixels: jax.Array) -> jax.Array:
  """Spreads the gray values of each image and channel over 0..255."""
  low = pixels.min(axis=(1, 2), keepdims=True).astype(jnp.int32)
  high = pixels.max(axis=(1, 2), keepdims=True).astype(jnp.int32)
  stretched = _quotient((pixels - low) * 255, jnp.maximum(high - low, 1))
  return jnp.where(high > low, _clipped(stretched), pixels)


def _equalized(pixels: jax.Array) -> jax.Array:
  """Makes all gray values of each image and channel about equally frequent."""
  count, _, _, channels = pixels.shape
  values = pixels.reshape(count, -1, channels).astype(jnp.int32)
  bins = (values * channels + jnp.arange(channels)).reshape(count, -1)
  empty = jnp.zeros(256 * channels, jnp.int32)
  histogram = jax.vmap(lambda own: empty.at[own].add(1, mode='promise_in_bounds'))(bins)
  histogram = histogram.reshape(count, 256, channels)
  total = jnp.cumsum(histogram, axis=1)
  size = total[:, -1:]
  # The pixels of the largest value that occurs do not count in the step, as in Pillow.
  below_top = jnp.where(total < size, total, 0).max(axis=1, keepdims=True)
  step = below_top // 255
  below = jnp.take_along_axis(total - histogram, values, axis=1, mode='promise_in_bounds')
  equalized = _quotient(below + step // 2, jnp.maximum(step, 1))
  return jnp.where(step > 0, _clipped(equalized), values).astype(jnp.uint8).reshape(pixels.shape)


def _quotient(dividend: jax.Array, divisor: jax.Array | int) -> jax.Array:
  """Integer division; the added half guards against rounding and never reaches the next integer."""
  return jnp.floor((dividend + 0.5) / divisor).astype(jnp.int32)


def _blend(zero: jax.Array, pixels: jax.Array, factor: jax.Array) -> jax.Array:
  """The line from `zero` at factor 0 through the pixels at factor 1, as uint8."""
  zero = zero.astype(jnp.float32)
  return _clipped(zero + factor * (pixels - zero))


def _clipped(values: jax.Array) -> jax.Array:
  """Clips to 0..255 and truncates to uint8, as Pillow does."""
  return jnp.clip(values, 0, 255).astype(jnp.uint8)
