"""Fonts for letters that matplotlib's default font lacks, such as Chinese ones.

Matplotlib takes each letter from the first font family that has it, and draws an empty box where
none does. The installed fonts are searched only where a letter is missing; names with letters that
no font has are replaced by class numbers.
"""

import functools
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib import font_manager

USUAL = 'DejaVu Sans'  # Comes with matplotlib.
_BOXES = 'Last Resort'  # A font that has a box for every letter.


class Lettering(NamedTuple):
  """The fonts that some texts are drawn with.

  Attributes:
    families: names of the font families to use besides `USUAL`.
    lacking: letters that no installed font has.
  """

  families: tuple[str, ...]
  lacking: frozenset[str]

  def has(self, text: str) -> bool:
    """Whether all letters of a text can be drawn."""
    return not self.lacking.intersection(unicodedata.normalize('NFC', text))

  def named(self, classes: Sequence[str]) -> list[str]:
    """The names of classes; 'class 3' in place of a name that cannot be drawn."""
    return [name if self.has(name) else f'class {i}' for i, name in enumerate(classes)]


def lettering(texts: Iterable[str]) -> Lettering:
  """Chooses as few fonts as possible for all letters of some texts."""
  letters = {letter for text in texts for letter in unicodedata.normalize('NFC', text)}
  lacking = frozenset(c for c in letters if not c.isspace()) - _usual_letters()
  families = []
  while lacking:
    covered = {family: found for family, found in _covers(lacking).items() if found}
    if not covered:
      break
    best = max(covered, key=lambda family: len(covered[family]))
    families.append(best)
    lacking -= covered[best]
  return Lettering(tuple(families), lacking)


@functools.cache
def _usual_letters() -> frozenset[str]:
  font = font_manager.get_font(font_manager.findfont(USUAL))
  return frozenset(map(chr, font.get_charmap()))


@functools.cache
def _covers(letters: frozenset[str]) -> dict[str, frozenset[str]]:
  """Which of some letters each installed family has, in its upright face of regular weight."""
  found: dict[str, frozenset[str]] = {}
  for entry in font_manager.fontManager.ttflist:
    usual = entry.style == 'normal' and entry.weight in (400, 'normal', 'regular', 'book')
    if not usual or entry.name in found or entry.name.startswith(_BOXES):
      continue
    try:
      font = font_manager.get_font(entry.fname)
      found[entry.name] = frozenset(c for c in letters if font.get_char_index(ord(c)))
    except (OSError, RuntimeError):  # The file is gone, or of a format that cannot be drawn.
      continue
  return found
