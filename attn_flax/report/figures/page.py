"""A page of pixels with text, on which images are pasted without resampling."""

import io
import math
import unicodedata

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image

from attn_flax.report.figures import style
from attn_flax.report.figures.fonts import Lettering


class Page:
  """A white page of pixels, with text on it."""

  def __init__(self, width: int, height: int):
    """Makes a white page of a size in pixels."""
    self._pixels = np.full((height, width, 3), 255, np.uint8)
    self._texts: list[tuple[float, float, str, dict]] = []

  def paste(self, pixels: np.ndarray, x: int, y: int) -> None:
    """Pastes an image [H, W, 3] uint8 with its upper left corner at (x, y)."""
    height, width = pixels.shape[:2]
    self._pixels[y : y + height, x : x + width] = pixels

  def write(
    self, text: str, x: float, y: float, size: float, most: float, **style_: object
  ) -> None:
    """Writes one line of text.

    Args:
      text: line breaks in it become spaces.
      x: the left end in pixels, unless `ha` says otherwise.
      y: the upper end in pixels, unless `va` says otherwise.
      size: of the letters, in pixels.
      most: the text is cut, with an ellipsis, where it is wider than so many pixels.
      **style_: further arguments of matplotlib's `Figure.text`.
    """
    self._texts.append((x, y, fitted(text, most / size), {'fontsize': size, **style_}))

  def png(self, lettering: Lettering) -> bytes:
    """The page as the content of a PNG file, with texts in the given fonts."""
    height, width = self._pixels.shape[:2]
    with style.drawing(lettering.families):
      # The hundredth of a pixel makes up for the rounding of the division.
      inches = (width + 0.01) / style.DPI, (height + 0.01) / style.DPI
      canvas = Canvas(figsize=inches, dpi=style.DPI)
      agg = FigureCanvasAgg(canvas)
      canvas.figimage(self._pixels, origin='upper')
      for x, y, text, fields in self._texts:
        size = fields['fontsize']
        fields = {**fields, 'fontsize': size * 72 / style.DPI}
        if 'va' not in fields:  # By the baseline, which does not depend on the letters.
          fields, y = fields | {'va': 'baseline'}, y + size
        canvas.text(x / width, 1 - y / height, text, **fields)
      agg.draw()
    file = io.BytesIO()
    Image.fromarray(np.asarray(agg.buffer_rgba())[..., :3]).save(file, 'png')
    return file.getvalue()

  def note(self, text: str, x: float, y: float, size: float) -> None:
    """Writes a word in a box that is centered at (x, y); `size` as in `write`."""
    box = {'facecolor': 'white', 'edgecolor': 'black', 'pad': 2}
    self.write(text, x, y, size, math.inf, ha='center', va='center', bbox=box)


def fitted(text: str, widths: float) -> str:
  """A text on one line, cut to a width in multiples of its letters' size, for matplotlib."""
  text = unicodedata.normalize('NFC', ' '.join(text.split()))
  used, count = 0.0, 0
  for count, letter in enumerate(text):  # noqa: B007
    used += 1.05 if unicodedata.east_asian_width(letter) in 'WF' else 0.62
    if used > widths:
      return style.plain(text[: max(count - 1, 1)] + '…', count + 1)
  return style.plain(text, len(text) + 1)
