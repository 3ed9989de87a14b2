"""Brightness, contrast, saturation, hue and gray-scale, for images of 0..255 before normalization.

Color jitter: Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks,
NeurIPS 2012 (section 4.1) changed colors at random; the operations and the ranges here are those
of torchvision's `ColorJitter`, after Howard, Some Improvements on Deep Convolutional Neural Network
Based Image Classification, 2013, https://arxiv.org/abs/1312.5402.

Departures from torchvision: intermediate results are neither rounded nor truncated, integer images
are rounded once, at the end; a random order is one order for the whole batch, because an order for
each image would need every operation at each of the four steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError, check_flags, check_range

MOST_STRENGTH = 1000.0  # Beyond it, factors lose their meaning.

# Weights of red, green and blue in gray, ITU-R 601-2, in 1/65536 as PIL has them.
_LUMA = (19595, 38470, 7471)

Change = Callable[[jax.Array], jax.Array]


def luma(images: jax.Array) -> jax.Array:
  """The gray value of each pixel.

  Args:
    images: [N, H, W, 1] or [N, H, W, 3], 0..255.

  Returns:
    [N, H, W, 1]: int32 for integer images, rounded as PIL rounds; else the images' dtype.

  Raises:
    UserError: another number of channels.
  """
  is_integer = jnp.issubdtype(images.dtype, jnp.integer)
  pixels = images.astype(jnp.int32) if is_integer else images
  if images.shape[-1] == 1:
    return pixels
  _check_color('gray values', images)
  # Written out, because XLA sums over three channels many times more slowly on CPU.
  red, green, blue = _channels(pixels)
  total = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
  return (total + 0x8000) >> 16 if is_integer else total / 65536


def adjust_brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
  """Multiplies images [N, H, W, C], 0..255, by `factor` [N]; keeps dtype and range."""
  return _adjust(lambda pixels: _blend(jnp.zeros_like(pixels), pixels, factor), images)


def adjust_contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the difference of each pixel from its image's mean gray value.

  Args:
    images: [N, H, W, C], 0..255, with one or three channels.
    factor: [N]; 0: evenly gray, 1: no change.

  Returns:
    [N, H, W, C], same dtype and range.
  """

  def change(pixels: jax.Array) -> jax.Array:
    # The mean of each channel first: the mean gray value is that of the means.
    return _blend(luma(pixels.mean(axis=(1, 2), keepdims=True)), pixels, factor)

  return _adjust(change, images)


def adjust_saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the difference of each channel of a pixel from the pixel's gray value.

  Args:
    images: [N, H, W, 3], 0..255; with one channel nothing changes.
    factor: [N]; 0: gray, 1: no change.

  Returns:
    [N, H, W, C], same dtype and range.
  """
  return _adjust(lambda pixels: _blend(luma(pixels), pixels, factor), images)


def adjust_hue(images: jax.Array, shift: jax.Array) -> jax.Array:
  """Shifts the hue of every pixel, and keeps its saturation and value, those of HSV.

  Args:
    images: [N, H, W, 3], 0..255.
    shift: [N], in turns: 1/3 makes red green, 0 and 1 change nothing.

  Returns:
    [N, H, W, 3], same dtype and range.

  Raises:
    UserError: another number of channels.
  """
  _check_color('hues', images)
  return _adjust(lambda pixels: _turn_hue(pixels, shift), images)


def color_jitter(
  key: jax.Array,
  images: jax.Array,
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
  random_order: bool = False,
) -> jax.Array:
  """Changes the colors of each image at random.

  Args:
    key: random key.
    images: [N, H, W, 3], 0..255; without hue also [N, H, W, 1].
    brightness: b: the factor is uniform in [max(0, 1 - b), 1 + b]; 0 leaves it out.
    contrast: likewise.
    saturation: likewise.
    hue: the shift is uniform in [-hue, hue] turns, hue at most 0.5; 0 leaves it out.
    random_order: whether to draw the order of the four for the batch; else it is the order above.

  Returns:
    [N, H, W, C], same dtype and range.

  Raises:
    UserError: a strength out of range, or a number of channels that an operation cannot work on.
  """
  for name, strength in {
    'brightness': brightness,
    'contrast': contrast,
    'saturation': saturation,
  }.items():
    check_range(name, strength, 0, MOST_STRENGTH)
  check_range('hue', hue, 0, 0.5)
  check_flags(random_order=random_order)
  order_key, *keys = jax.random.split(key, 5)
  draws = ((brightness, 1.0, 0.0), (contrast, 1.0, 0.0), (saturation, 1.0, 0.0), (hue, 0.0, -1.0))
  adjusts = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
  steps: list[Change] = []
  for adjust, (strength, middle, least), own_key in zip(adjusts, draws, keys, strict=True):
    if strength:
      low, high = max(least, middle - strength), middle + strength
      amount = jax.random.uniform(own_key, (len(images),), minval=low, maxval=high)
      steps.append(_step(adjust, amount))

  def all_steps(pixels: jax.Array) -> jax.Array:
    if not random_order:
      for step in steps:
        pixels = step(pixels)
      return pixels
    for place in jax.random.permutation(order_key, len(steps)):
      pixels = jax.lax.switch(place, steps, pixels)
    return pixels

  return _adjust(all_steps, images) if steps else images


def random_gray(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
  """Makes each of images [N, H, W, C], 0..255, gray with a probability; keeps shape and dtype.

  Raises:
    UserError: the probability is not in 0..1, or there are neither one nor three channels.
  """
  check_range('probability', probability, 0, 1)
  is_gray = jax.random.bernoulli(key, float(probability), (len(images), 1, 1, 1))
  return jnp.where(is_gray, luma(images).astype(images.dtype), images)


def _step(adjust: Callable[[jax.Array, jax.Array], jax.Array], amount: jax.Array) -> Change:
  return lambda pixels: adjust(pixels, amount)


def _adjust(change: Change, images: jax.Array) -> jax.Array:
  """Applies a change of float32 pixels to images of any dtype."""
  pixels = change(images.astype(jnp.float32))
  if jnp.issubdtype(images.dtype, jnp.integer):
    pixels = jnp.round(pixels)
  return pixels.astype(images.dtype)


def _blend(zero: jax.Array, pixels: jax.Array, factor: jax.Array) -> jax.Array:
  """The line from `zero` at factor 0 through the pixels at factor 1, within 0..255."""
  factor = factor[:, None, None, None]
  return jnp.clip(factor * pixels + (1 - factor) * zero, 0, 255)


def _turn_hue(pixels: jax.Array, shift: jax.Array) -> jax.Array:
  red, green, blue = _channels(pixels)
  value = jnp.maximum(jnp.maximum(red, green), blue)
  chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
  # Hue in sixths of a turn, counted from red; gray has none, and its chroma of 0 needs none.
  safe = jnp.where(chroma > 0, chroma, 1)
  hue = jnp.where(
    value == red,
    (green - blue) / safe,
    jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
  )
  hue = hue + 6 * shift[:, None, None, None]

  def channel(start: int) -> jax.Array:
    # A channel is full for two sixths around its color, and absent for the opposite two.
    distance = start + hue
    distance = distance - 6 * jnp.floor(distance / 6)  # Faster than the remainder.
    return value - chroma * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)

  return jnp.concatenate([channel(5), channel(3), channel(1)], axis=-1)


def _channels(images: jax.Array) -> list[jax.Array]:
  return jnp.split(images, images.shape[-1], axis=-1)


def _check_color(what: str, images: jax.Array) -> None:
  if images.shape[-1] != 3:
    raise UserError(
      f'{what} need images of three channels, red, green and blue; these have {images.shape[-1]}'
    )
