"""Handwritten digits as glyphs: upsampled, placed by affine maps, and colored to stand out.

Coordinates are (y, x) in -1..1 from edge to edge, both in a glyph and in an image.
"""

import functools

import numpy as np

BORDER = 1  # Empty pixels around an 8 x 8 digit, so that its ink fades out before the cell ends.
CELL_PER_DIGIT = (8 + 2 * BORDER) / 8
UPSAMPLING = 4
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
  """The 1,797 digits of scikit-learn: ink [1797, 40, 40] float32 in 0..1, labels [1797] int32."""
  from sklearn import datasets  # Takes a second: readers of a prepared dataset never need it.

  bunch = datasets.load_digits()
  cells = np.pad(bunch.images / 16, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
  side = cells.shape[1]
  # Keys' cubic convolution; beyond the border there is no ink.
  centers = (np.arange(side * UPSAMPLING) + 0.5) / UPSAMPLING - 0.5
  distance = np.abs(centers[:, None] - np.arange(side))
  near = 1.5 * distance**3 - 2.5 * distance**2 + 1
  far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
  weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
  ink = np.clip(weights @ cells @ weights.T, 0, 1)
  return ink.astype(np.float32), bunch.target.astype(np.int32)


def placement(
  rng: np.random.Generator,
  center: np.ndarray,
  half_side: np.ndarray,
  rotation_deg: float,
  shear: float,
) -> np.ndarray:
  """Affine maps [N, 2, 3] from image (y, x, 1) to glyph (y, x).

  They place a glyph, half of whose side is `half_side` [N], at `center` [N, 2], randomly rotated by
  up to `rotation_deg` degrees and sheared by up to `shear`, in either direction.
  """
  count = len(center)
  angle = np.deg2rad(rng.uniform(-rotation_deg, rotation_deg, count))
  slant = rng.uniform(-shear, shear, count)
  cos, sin = np.cos(angle), np.sin(angle)
  rows = [[cos, sin], [slant * cos - sin, slant * sin + cos]]
  linear = np.moveaxis(np.array(rows), -1, 0) / half_side[:, None, None]
  return np.concatenate([linear, -linear @ center[..., None]], -1).astype(np.float32)


def warp(ink: np.ndarray, placements: np.ndarray, size: int) -> np.ndarray:
  """Draws each glyph into an image of its own, by bilinear interpolation.

  Args:
    ink: [N, S, S] float32.
    placements: [N, 2, 3] float32, see `placement`.
    size: height and width of the images in pixels.

  Returns:
    [N, size, size] float32; 0 outside a glyph.
  """
  padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))  # Coordinates clipped to the border read 0.
  count, side, _ = padded.shape
  pixel = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)

  def coordinate(axis: int) -> np.ndarray:
    along_y, along_x, constant = np.moveaxis(placements[:, axis], -1, 0)[..., None, None]
    glyph = along_y * pixel[:, None] + along_x * pixel + constant
    return np.clip((glyph + 1) * ((side - 2) / 2) + 0.5, 0, side - 1.001)

  y, x = coordinate(0), coordinate(1)
  top, left = y.astype(np.int32), x.astype(np.int32)
  y, x = y - top, x - left
  # One flat index and three constant offsets: several times faster than indexing by three arrays.
  flat = padded.reshape(-1)
  index = np.arange(count, dtype=np.int32)[:, None, None] * side**2 + top * side + left
  upper = flat[index] * (1 - x) + flat[index + 1] * x
  lower = flat[index + side] * (1 - x) + flat[index + side + 1] * x
  return (upper * (1 - y) + lower * y).astype(np.float32)


def stroke(ink: np.ndarray) -> np.ndarray:
  """Turns blurred ink in 0..1 into an opacity in 0..1 with crisper, thinner strokes."""
  return np.clip((ink - 0.30) / 0.45, 0, 1)


def colors(
  rng: np.random.Generator, background_luma: np.ndarray, contrast: tuple[float, float]
) -> np.ndarray:
  """Random colors [N, 3] in 0..1 whose luma differs from `background_luma` [N] by `contrast`.

  A luma outside 0..1 is replaced by one on the other side of the background's, or clipped where
  neither side has room.
  """
  count = len(background_luma)
  difference = rng.uniform(*contrast, count)
  brighter = rng.random(count) < 0.5
  brighter = np.where(background_luma - difference < 0, True, brighter)
  brighter = np.where(background_luma + difference > 1, False, brighter)
  luma = np.clip(background_luma + np.where(brighter, difference, -difference), 0, 1)[:, None]

  hue = rng.uniform(-1, 1, (count, 3))
  hue -= (hue @ LUMA)[:, None]  # So that adding a multiple of the hue does not change the luma.
  hue /= np.maximum(np.abs(hue).max(1, keepdims=True), 1e-3)
  saturation = np.minimum(luma, 1 - luma) * rng.uniform(0, 1, (count, 1))  # Stays in 0..1.
  return (luma + hue * saturation).astype(np.float32)
