"""Photographs with maps drawn over them, as `--mode=explain` shows them, at their own resolution.

A map is transparent where it is low, so that the photograph stays visible, and covers the part that
the network saw; what was cropped away is pale. Each map has its own color scale, whose ends are
printed. A map that hardly varies is described in words, because its colors would show noise.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from attn_flax.report.figures import style
from attn_flax.report.figures.fonts import Lettering
from attn_flax.report.figures.page import Page
from attn_flax.report.figures.pictures import RIGHT, WRONG, is_blank

MOST_PIXELS = 1024  # The longer side of a photograph that is drawn; larger ones are shrunk.
_LEAST_PIXELS = 256  # Smaller photographs are enlarged by a whole factor, so pixels stay square.
_FLAT = 0.01  # A map whose range is at most this share of its largest absolute value is flat.
# The opacity is _OPACITY at the highest value, and falls with the share of it to the power _RISE.
_OPACITY, _RISE = 0.8, 0.7
_NEAR_ZERO = 0.1  # The scale starts at 0 if the lowest value is a smaller share of the highest.
_PEAK = 99.0  # Percentile at which the scale ends if the highest value is far above it.
_PALE = 0.65  # How far the part that the network did not see is moved toward white.
_COLOR = 0.3  # Share of the photograph's color that is kept: it could be taken for the map's.
_SIGNED = 'RdBu_r'


class Photograph(NamedTuple):
  """A photograph and the part of it that the network saw.

  Attributes:
    pixels: [H, W, 3] uint8, upright.
    box: (left, top, right, bottom) of the part that the network saw, in these pixels.
  """

  pixels: np.ndarray
  box: tuple[float, float, float, float]


# Names of methods as their papers write them; others are written as words.
_TITLES = {
  'grad_cam': 'Grad-CAM',
  'grad_cam_plus_plus': 'Grad-CAM++',
  'hires_cam': 'HiResCAM',
  'layer_cam': 'LayerCAM',
  'smooth_grad': 'SmoothGrad',
}


def title(method: str) -> str:
  """What a picture calls a method: 'Grad-CAM', 'own map'."""
  return _TITLES.get(method, method.replace('_', ' '))


class Caption(NamedTuple):
  """The texts below a photograph.

  Attributes:
    explained: the class that the maps explain, which is the predicted one.
    probability: the predicted probability of that class.
    label: the true class; None where it is not known.
  """

  explained: str
  probability: float
  label: str | None = None

  @property
  def verdict(self) -> str:
    """The true class and whether it was predicted; '' where it is not known."""
    if self.label is None:
      return ''
    return f'{RIGHT if self.label == self.explained else WRONG} label: {self.label}'


class Range(NamedTuple):
  """The range of a map's color scale; values outside it have the color of the nearer end.

  Attributes:
    low: its lower end; minus `high` for a map with negative values.
    high: its upper end.
    beyond: share of the map's values that lie outside it.
  """

  low: float
  high: float
  beyond: float

  @property
  def signed(self) -> bool:
    """Whether the map has negative values, so that the middle of the range is 0."""
    return self.low < 0

  @property
  def cmap(self) -> str:
    """Name of the matplotlib color map."""
    return _SIGNED if self.signed else style.MAP

  @property
  def ends(self) -> tuple[str, str]:
    """Both ends as text, in enough digits to tell them apart; ≤ or ≥ where values lie beyond."""
    low, high = numbers(self.low, self.high)
    return (low, high) if not self.beyond else (f'≤ {low}' if self.signed else low, f'≥ {high}')


def is_flat(values: np.ndarray) -> bool:
  """Whether a map varies by no more than 1 % of its largest absolute value."""
  return float(np.ptp(values)) <= _FLAT * float(np.abs(values).max())


def words(values: np.ndarray) -> str:
  """The word that replaces the colors of a map: 'empty' or 'flat'; '' for a map to be drawn."""
  return 'empty' if is_blank(values) else 'flat' if is_flat(values) else ''


def range_of(values: np.ndarray) -> Range:
  """The range of a map's color scale.

  It starts at 0 or, where the lowest value is far above 0, at that value; with negative values it
  is symmetric about 0. It ends at the highest value, or at the 99th percentile where that is far
  below.
  """
  least, most = float(values.min()), float(values.max())
  signed = least < -_FLAT * most
  sizes = np.abs(values) if signed else values
  top, peak = float(sizes.max()), float(np.percentile(sizes, _PEAK))
  low = 0.0 if signed or least < _NEAR_ZERO * most else least
  # A few pixels far above all others would leave the rest of the map invisible.
  if top - low > 1.5 * (peak - low) > 0:
    top = peak
  return Range(-top if signed else low, top, float((sizes > top).mean()))


def numbers(low: float, high: float) -> tuple[str, str]:
  """Two numbers as text, with at least three digits and at least two of their difference."""
  size, gap = max(abs(low), abs(high)), high - low
  digits = 3 if not gap else max(3, math.ceil(math.log10(size / gap)) + 2)
  return f'{low:.{digits}g}', f'{high:.{digits}g}'


def painted(photo: Photograph, values: np.ndarray | None) -> np.ndarray:
  """A photograph with a map drawn over it.

  Args:
    photo: the photograph.
    values: [h, w]; None, an empty map and a flat one leave the photograph without colors.

  Returns:
    [H, W, 3] uint8; what the network did not see is pale.
  """
  page = photo.pixels.astype(np.float32)
  height, width = page.shape[:2]
  left, top, right, bottom = (round(side) for side in photo.box)
  right, bottom = min(max(right, left + 1), width), min(max(bottom, top + 1), height)
  seen = page[top:bottom, left:right].copy()
  page += _PALE * (255 - page)
  if values is not None and not words(values):
    span = range_of(values)
    # Pixel centers stay in place; the map may be finer or coarser than the photograph.
    fine = Image.fromarray(np.asarray(values, np.float32)).resize(
      (right - left, bottom - top), Image.Resampling.BILINEAR
    )
    color, alpha = _colors(np.asarray(fine), span)
    gray = seen.mean(-1, keepdims=True)
    seen = gray + _COLOR * (seen - gray)
    seen += alpha[..., None] * (color - seen)
  page[top:bottom, left:right] = seen
  return (page + 0.5).clip(0, 255).astype(np.uint8)


def _colors(values: np.ndarray, span: Range) -> tuple[np.ndarray, np.ndarray]:
  """Colors [..., 3] in 0..255 and opacities [...] in 0..1 of values [...]."""
  share = ((values - span.low) / (span.high - span.low)).clip(0, 1)
  color = 255 * matplotlib.colormaps[span.cmap](share)[..., :3]
  alpha = _OPACITY * (np.abs(2 * share - 1) if span.signed else share) ** _RISE
  return color.astype(np.float32), alpha.astype(np.float32)


def color_bar(span: Range, width: int, height: int) -> np.ndarray:
  """The colors of a range, from low to high, on a gray background, [height, width, 3] uint8."""
  color, alpha = _colors(np.linspace(span.low, span.high, width), span)
  row = 200 + alpha[:, None] * (color - 200)
  return np.broadcast_to(row, (height, width, 3)).astype(np.uint8)


def enlarged(photo: Photograph, least: int = _LEAST_PIXELS) -> Photograph:
  """A photograph enlarged by a whole factor so that its longer side has at least `least` pixels."""
  factor = -(-least // max(photo.pixels.shape[:2]))
  if factor == 1:
    return photo
  pixels = photo.pixels.repeat(factor, 0).repeat(factor, 1)
  return Photograph(pixels, _scaled(photo.box, factor))


def shrunk(photo: Photograph, most: int) -> Photograph:
  """A photograph shrunk, where needed, so that its longer side has at most `most` pixels."""
  height, width = photo.pixels.shape[:2]
  share = min(most / max(height, width), 1)
  size = max(round(width * share), 1), max(round(height * share), 1)
  image = Image.fromarray(photo.pixels).resize(size, Image.Resampling.BILINEAR)
  return Photograph(np.asarray(image), _scaled(photo.box, share))


def _scaled(
  box: tuple[float, float, float, float], factor: float
) -> tuple[float, float, float, float]:
  left, top, right, bottom = box
  return left * factor, top * factor, right * factor, bottom * factor


def overlays(
  photo: Photograph, maps: Mapping[str, np.ndarray], caption: Caption, lettering: Lettering
) -> bytes:
  """A photograph, and copies of it with one map each, above the color scale of that map.

  Args:
    photo: at its own resolution, or shrunk to `MOST_PIXELS`.
    maps: [h, w] each, by the name of its method, not normalized; one that is zero everywhere, or
      not finite, is called 'empty', and one that hardly varies 'flat'.
    caption: the texts below the photograph.
    lettering: the fonts of the texts.

  Returns:
    The content of a PNG file.
  """
  photo = enlarged(photo)
  height, width = photo.pixels.shape[:2]
  size = min(max(max(height, width) / 32, 13), 24)  # Of letters, in pixels.
  line, gap = math.ceil(1.5 * size), math.ceil(size)
  cell = max(width, math.ceil(15 * size))
  count = len(maps) + 1
  columns = min(count, 1 if width > 3 * height else 2 if width > 2 * height else 4)
  step_x, step_y = cell + gap, height + 4 * line + gap
  page = Page(columns * step_x + gap, -(-count // columns) * step_y + gap)
  lines = [
    f'explained: {caption.explained}',
    f'probability {caption.probability:.2f}',
    caption.verdict,
  ]
  is_cut = not np.allclose(photo.box, (0, 0, width, height), atol=1)
  original = 'photograph' + (', pale: unseen' if is_cut else '')
  for i, (name, values) in enumerate([(original, None), *maps.items()]):
    x, y = gap + i % columns * step_x, gap + i // columns * step_y
    page.write(title(name), x, y, size, cell)
    page.paste(painted(photo, values), x, y + line)
    below = y + line + height + gap // 3
    if values is None:
      for row, text in enumerate(lines):
        page.write(text, x, below + row * line, size, cell, fontweight='normal' if row else 'bold')
      continue
    if word := words(values):
      page.note(word, x + width / 2, y + line + height - line, size)
      page.write(_explained(values, word), x, below, size, cell)
      continue
    span = range_of(values)
    bar = min(width, cell)
    page.paste(color_bar(span, bar, gap // 2), x, below)
    for text, at, side in zip(span.ends, (x, x + bar), ('left', 'right'), strict=True):
      page.write(text, at, below + gap // 2 + 2, size, bar / 2, ha=side)
    if span.beyond:
      page.write(
        f'{100 * span.beyond:.1f} % beyond the scale', x, below + gap // 2 + line, size, cell
      )
  return page.png(lettering)


def _explained(values: np.ndarray, word: str) -> str:
  """The sentence below a map that `words` calls 'empty' or 'flat'."""
  if word == 'empty':
    return 'zero everywhere' if np.isfinite(values).all() else 'its values are not finite'
  low, high = numbers(float(values.min()), float(values.max()))
  return f'{low} everywhere' if low == high else f'{low} to {high} everywhere'
