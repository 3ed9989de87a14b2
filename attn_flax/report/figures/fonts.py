"""Letters that the usual font lacks, such as Chinese ones: from a font of the machine, or told.

Matplotlib takes each letter from the first of its families that has it, and draws an empty box
where none does. The machine's fonts are looked through only where a letter is missing.
"""

import functools
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib import font_manager

USUAL = 'DejaVu Sans'  # Comes with matplotlib.
_BOXES = 'Last Resort'  # A font that has a box for every letter.


class Lettering(NamedTuple):
  """What some texts are drawn with.

  Attributes:
    families: the fonts beside the usual one, by the names of their families.
    lacking: letters that no font has.
  """

  families: tuple[str, ...]
  lacking: frozenset[str]

  def has(self, text: str) -> bool:
    """Whether all letters of a text can be drawn."""
    return not self.lacking.intersection(unicodedata.normalize('NFC', text))

  def named(self, classes: Sequence[str]) -> list[str]:
    """The names of classes; their numbers in place of names that cannot be drawn."""
    return [name if self.has(name) else f'class {i}' for i, name in enumerate(classes)]


def lettering(texts: Iterable[str]) -> Lettering:
  """The fonts that some texts need, as few as there may be."""
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
  """Which of some letters each family of the machine has, upright and of usual weight."""
  found: dict[str, frozenset[str]] = {}
  for entry in font_manager.fontManager.ttflist:
    usual = entry.style == 'normal' and entry.weight in (400, 'normal', 'regular', 'book')
    if not usual or entry.name in found or entry.name.startswith(_BOXES):
      continue
    try:
      font = font_manager.get_font(entry.fname)
      found[entry.name] = frozenset(c for c in letters if font.get_char_index(ord(c)))
    except (OSError, RuntimeError):  # Listed, but gone or of a kind that cannot be drawn.
      continue
  return found
