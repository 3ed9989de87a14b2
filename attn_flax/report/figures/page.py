"""A page of pixels with text: images lie on it as they are, no pixel resampled."""

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
    """Both in pixels."""
    self._pixels = np.full((height, width, 3), 255, np.uint8)
    self._texts: list[tuple[float, float, str, dict]] = []

  def paste(self, pixels: np.ndarray, x: int, y: int) -> None:
    """Puts an image [H, W, 3] with its upper left corner at a place."""
    height, width = pixels.shape[:2]
    self._pixels[y : y + height, x : x + width] = pixels

  def write(
    self, text: str, x: float, y: float, size: float, most: float, **style_: object
  ) -> None:
    """Writes one line, of a size in pixels, below y; what is longer than `most` pixels is cut."""
    self._texts.append((x, y, fitted(text, most / size), {'fontsize': size, **style_}))

  def png(self, lettering: Lettering) -> bytes:
    """The content of a PNG file."""
    height, width = self._pixels.shape[:2]
    with style.drawing(lettering.families):
      # The hundredth is for the rounding of the quotient.
      inches = (width + 0.01) / style.DPI, (height + 0.01) / style.DPI
      canvas = Canvas(figsize=inches, dpi=style.DPI)
      agg = FigureCanvasAgg(canvas)
      canvas.figimage(self._pixels, origin='upper')
      for x, y, text, fields in self._texts:
        size = fields['fontsize']
        fields = {**fields, 'fontsize': size * 72 / style.DPI}
        if 'va' not in fields:  # Of one line on all pages, whatever its letters are.
          fields, y = fields | {'va': 'baseline'}, y + size
        canvas.text(x / width, 1 - y / height, text, **fields)
      agg.draw()
    file = io.BytesIO()
    Image.fromarray(np.asarray(agg.buffer_rgba())[..., :3]).save(file, 'png')
    return file.getvalue()

  def note(self, text: str, x: float, y: float, size: float) -> None:
    """Writes a word in a box around a place."""
    box = {'facecolor': 'white', 'edgecolor': 'black', 'pad': 2}
    self.write(text, x, y, size, math.inf, ha='center', va='center', bbox=box)


def fitted(text: str, widths: float) -> str:
  """A text cut to a line of so many heights of its letters, as matplotlib prints it."""
  text = unicodedata.normalize('NFC', ' '.join(text.split()))
  used, count = 0.0, 0
  for count, letter in enumerate(text):  # noqa: B007
    used += 1.05 if unicodedata.east_asian_width(letter) in 'WF' else 0.62
    if used > widths:
      return style.plain(text[: max(count - 1, 1)] + '…', count + 1)
  return style.plain(text, len(text) + 1)
