"""One page with many explained photographs, small, in the order in which they were added."""

from collections.abc import Mapping, Sequence

import numpy as np

from attn_flax.report.figures.fonts import Lettering
from attn_flax.report.figures.page import Page
from attn_flax.report.figures.photographs import (
  Caption,
  Photograph,
  enlarged,
  painted,
  shrunk,
  title,
  words,
)

MOST_IMAGES = 60
_SIDE = 160  # Pixels of the longer side of a photograph.
_WIDTH = 1600  # Pixels of a page, unless one photograph with its maps needs more.
_SIZE, _LINE, _GAP = 12, 17, 8  # Pixels: of the letters, of a line, and between photographs.


# The name of a photograph, its caption, and (method, pixels, note) of each panel.
_Row = tuple[str, Caption, list[tuple[str, np.ndarray, str]]]


class ContactSheet:
  """Collects explained photographs and draws the first `MOST_IMAGES` of them on one page."""

  def __init__(self) -> None:
    """Makes an empty sheet."""
    self._rows: list[_Row] = []

  def add(
    self, name: str, photo: Photograph, maps: Mapping[str, np.ndarray], caption: Caption
  ) -> None:
    """Adds a photograph and its maps; those after the first `MOST_IMAGES` are left out.

    Args:
      name: printed below the photograph.
      photo: the photograph.
      maps: [h, w] each, by the name of the method, not normalized.
      caption: the explained class, its probability and the true class.
    """
    if len(self._rows) >= MOST_IMAGES:
      return
    small = shrunk(enlarged(photo, _SIDE), _SIDE)
    panels = [('photograph', painted(small, None), '')]
    for method, values in maps.items():
      panels.append((title(method), painted(small, values), words(values)))
    self._rows.append((name, caption, panels))

  def png(self, lettering: Lettering) -> bytes:
    """The page as the content of a PNG file; needs at least one photograph."""
    panels = len(self._rows[0][2])
    group = panels * (_SIDE + _GAP) + 2 * _GAP
    columns = min(max(_WIDTH // group, 1), len(self._rows))
    starts = range(0, len(self._rows), columns)
    heights = [_height(self._rows[start : start + columns]) for start in starts]
    tops = [_GAP + sum(heights[:i]) for i in range(len(heights))]
    page = Page(columns * group + _GAP, _GAP + sum(heights))
    for i, (name, caption, shown) in enumerate(self._rows):
      left, top = _GAP + i % columns * group, tops[i // columns]
      for j, (method, pixels, word) in enumerate(shown):
        x = left + j * (_SIDE + _GAP)
        page.write(method, x, top, _SIZE, _SIDE)
        page.paste(pixels, x, top + _LINE)
        if word:
          high, wide = pixels.shape[:2]
          page.note(word, x + wide / 2, top + _LINE + high - _LINE, _SIZE)
      below, most = top + _LINE + shown[0][1].shape[0] + 3, group - 3 * _GAP
      page.write(name, left, below, _SIZE, most)
      answer = f'explained: {caption.explained} · {caption.probability:.2f}'
      page.write(answer, left, below + _LINE, _SIZE, most, fontweight='bold')
      page.write(caption.verdict, left, below + 2 * _LINE, _SIZE, most)
    return page.png(lettering)


def _height(rows: Sequence[_Row]) -> int:
  """The height in pixels of a row of photographs with their texts."""
  return max(shown[0][1].shape[0] for _, _, shown in rows) + 4 * _LINE + 2 * _GAP
