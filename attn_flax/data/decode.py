"""Decodes, crops and resizes image files to the uint8 pixels that the network gets.

Uses NumPy and Pillow only, so that worker processes need no more. `crops` draws the boxes.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from attn_flax.data.crops import RATIO, SCALE, Box, central_box, crop_box
from attn_flax.data.image_file import MAX_PIXELS, BadImage, guarded, open_image

_ORIENTATION = 0x0112  # The EXIF tag.
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)


def random_crop(
  encoded: bytes,
  size: int,
  draws: np.ndarray,
  *,
  upright: bool = False,
  scale: tuple[float, float] = SCALE,
  ratio: tuple[float, float] = RATIO,
  max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
  """Cuts a random box out of an image and resizes it.

  Where the sides of the box are at least twice the result's, a JPEG is decoded at 1/2, 1/4 or 1/8
  of its size, which saves most of the time.

  Args:
    encoded: the image file's content.
    size: height and width of the result in pixels.
    draws: [TRIES, 4] uniform random numbers in 0..1, see `crop_box`.
    upright: whether to turn the image as its EXIF orientation says.
    scale: smallest and largest share of the image's area that the box covers.
    ratio: smallest and largest width / height of the box.
    max_pixels: the most pixels that the image may have.

  Returns:
    [size, size, 3] uint8.

  Raises:
    BadImage: the image cannot be decoded.
  """

  def box_of(width: int, height: int) -> Box:
    return crop_box(width, height, draws, scale, ratio)

  return _render(encoded, box_of, size, upright, max_pixels, reduce=True)


def central_crop(
  encoded: bytes,
  size: int,
  *,
  resize: int | None = None,
  upright: bool = False,
  max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
  """Resizes an image so that its shorter side is `resize`, and cuts the center out.

  Both steps are done at once, so that only pixels that are kept are computed; some differ by one
  gray level from those of a resize and a crop one after the other.

  Args:
    encoded: the image file's content.
    size: height and width of the result in pixels.
    resize: length of the shorter side in pixels, at least `size`; None: `size`.
    upright: whether to turn the image as its EXIF orientation says.
    max_pixels: the most pixels that the image may have.

  Returns:
    [size, size, 3] uint8.

  Raises:
    BadImage: the image cannot be decoded.
  """

  def box_of(width: int, height: int) -> Box:
    return central_box(width, height, size, resize)

  return _render(encoded, box_of, size, upright, max_pixels)


def whole(
  encoded: bytes, most: int, *, upright: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[int, int]]:
  """A whole image, made smaller where a side is longer than `most` pixels.

  Args:
    encoded: the image file's content.
    most: longest side of the result in pixels.
    upright: whether to turn the image as its EXIF orientation says.
    max_pixels: the most pixels that the image may have.

  Returns:
    [h, w, 3] uint8, and the (height, width) of the original in pixels.

  Raises:
    BadImage: the image cannot be decoded.
  """

  def render() -> tuple[np.ndarray, tuple[int, int]]:
    with open_image(encoded, max_pixels) as image:
      turn = _turn(image, upright)
      width, height = _upright_size(image, turn)
      share = min(most / max(width, height), 1)
      # Pillow decodes a JPEG at a reduced size that is no smaller than the result's.
      image.draft(None, (math.ceil(image.width * share), math.ceil(image.height * share)))
      pixels = _to_rgb(image)
    if turn:
      pixels = pixels.transpose(_UPRIGHT[turn])
    size = max(round(width * share), 1), max(round(height * share), 1)
    if pixels.size != size:
      pixels = pixels.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(pixels), (height, width)

  return guarded(encoded, render)


def central_mask(encoded: bytes, size: int, *, resize: int | None = None) -> np.ndarray:
  """Resizes and crops a mask as `central_crop` does its image, but by nearest neighbor.

  Args:
    encoded: the mask file's content.
    size: as for `central_crop`.
    resize: as for `central_crop`.

  Returns:
    [size, size] uint8: gray levels, or the indices of a palette image.

  Raises:
    BadImage: the mask cannot be decoded.
  """

  def render() -> np.ndarray:
    with open_image(encoded) as image:
      box = central_box(*image.size, size, resize)
      box = box[0], box[1], min(box[2], image.width), min(box[3], image.height)
      # Palette indices are treated as gray levels: resizing would otherwise map them to colors.
      values = np.asarray(image if image.mode in ('L', 'P') else image.convert('L'))
      gray = Image.fromarray(values)
      return np.asarray(gray.resize((size, size), Image.Resampling.NEAREST, box=box))

  return guarded(encoded, render)


def probe(
  encoded: bytes, *, upright: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
  """Checks that an image can be decoded; returns its (height, width) in pixels.

  Args:
    encoded: the image file's content.
    upright: whether to turn the image as its EXIF orientation says.
    max_pixels: the most pixels that the image may have.

  Raises:
    TooLarge: the image has more pixels.
    BadImage: the image cannot be decoded.
  """

  def load() -> tuple[int, int]:
    with open_image(encoded, max_pixels) as image:
      turn = _turn(image, upright)
      width, height = _upright_size(image, turn)
      image.draft(None, (max(image.width // 8, 1), max(image.height // 8, 1)))
      _to_rgb(image)
    return height, width

  return guarded(encoded, load)


def central_bbox(
  bbox: np.ndarray, encoded: bytes, size: int, *, resize: int | None = None
) -> np.ndarray:
  """Converts the box of an object in an image to its box in the image's `central_crop`.

  Args:
    bbox: [4], (ymin, xmin, ymax, xmax) in 0..1 of the image.
    encoded: the image file's content.
    size: as for `central_crop`.
    resize: as for `central_crop`.

  Returns:
    [4] float32, in 0..1 of the crop and cut off at its edges.
  """
  with open_image(encoded) as image:
    width, height = image.size
  left, top, right, bottom = central_box(width, height, size, resize)
  corners = np.asarray(bbox, np.float64) * [height, width, height, width] - [top, left, top, left]
  extent = [bottom - top, right - left]
  return np.clip(corners / [*extent, *extent], 0, 1).astype(np.float32)


def _render(
  encoded: bytes,
  box_of: Callable[[int, int], Box],
  size: int,
  upright: bool,
  max_pixels: int,
  *,
  reduce: bool = False,
) -> np.ndarray:
  """Decodes an image and resizes the box that `box_of` gives for its width and height."""

  def render() -> np.ndarray:
    with open_image(encoded, max_pixels) as image:
      turn = _turn(image, upright)
      width, height = _upright_size(image, turn)
      box = box_of(width, height)
      if reduce and (factor := int(min(box[2] - box[0], box[3] - box[1])) // size) > 1:
        # Pillow divides the size of a JPEG by 2, 4 or 8, and leaves at least this much.
        image.draft(None, (image.width // factor, image.height // factor))
      pixels = _to_rgb(image)
    if turn:
      pixels = pixels.transpose(_UPRIGHT[turn])
    if pixels.size == (size, size) and box == (0, 0, size, size):
      return np.asarray(pixels)
    across, down = pixels.width / width, pixels.height / height
    right, bottom = min(box[2] * across, pixels.width), min(box[3] * down, pixels.height)
    # Rounding must not push the box over the edge.
    box = box[0] * across, box[1] * down, right, bottom
    return np.asarray(pixels.resize((size, size), Image.Resampling.BILINEAR, box=box))

  return guarded(encoded, render)


def _turn(image: Image.Image, upright: bool) -> int:
  """The EXIF orientation if it is to be followed and is valid, else 0."""
  if not upright:
    return 0
  if image.format not in ('JPEG', 'MPO'):
    image.load()  # Reading EXIF data may do this, and the handler below must not hide its errors.
  try:
    orientation = image.getexif().get(_ORIENTATION, 0)
  # Broken EXIF data raises errors of many types, and the pixels may still be fine.
  except Exception:
    return 0
  return orientation if orientation in _UPRIGHT else 0


def _upright_size(image: Image.Image, turn: int) -> tuple[int, int]:
  """(width, height) of the image once turned."""
  return (image.height, image.width) if turn in _SWAPS_SIDES else image.size


def _to_rgb(image: Image.Image) -> Image.Image:
  """Converts to RGB with eight bits per channel; transparent pixels are blended with white."""
  if image.mode.startswith('I'):  # 16 bits, which Pillow would clip rather than scale.
    levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
  if image.mode == 'F':
    raise BadImage('its pixels are floating-point numbers of unknown range')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    paper = Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(paper, image)
  if image.mode != 'RGB':
    return image.convert('RGB')
  image.load()
  return image
