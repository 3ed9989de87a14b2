"""What a report calls the scores of a task, and how it writes them."""

import dataclasses
from collections.abc import Mapping

from attn_flax.report import formats
from attn_flax.study.explanations import SCORES

# Of the scores of explanations, see `study.explanations.SCORES`.
_SCORE_TITLES = {
  'pointing': 'pointing game',
  'energy_mask': 'energy inside the mask',
  'energy_box': 'energy inside the box',
  'iou': 'IoU at the best threshold',
  'insertion': 'insertion AUC',
  'deletion': 'deletion AUC',
  'road': 'ROAD',
}


def score_title(name: str) -> str:
  """The title of a score of explanations."""
  return _SCORE_TITLES[name]


def score_heading(name: str) -> str:
  """Its title with an arrow: up where higher is better."""
  return f'{score_title(name)}\N{NO-BREAK SPACE}{"↑" if SCORES[name] else "↓"}'


@dataclasses.dataclass(frozen=True)
class Title:
  """How a score is written.

  Attributes:
    name: its name.
    columns: its columns in `results.csv`: the mean over the runs, and the spread between them.
    is_share: whether it lies in 0..1 and is printed in percent.
    digits: that are printed.
  """

  name: str
  columns: tuple[str, str]
  is_share: bool = True
  digits: int = 2

  @property
  def heading(self) -> str:
    """Its name with the unit."""
    return f'{self.name}, %' if self.is_share else self.name

  def number(self, value: float | None) -> str:
    """A value without its unit."""
    return (formats.percent if self.is_share else formats.number)(value, self.digits)


@dataclasses.dataclass(frozen=True)
class Wording:
  """How the report speaks of a task; its best score is a share in 0..1.

  Attributes:
    quality: what the best score is a measure of, such as 'accuracy'.
    best: the score that networks are compared by.
    best_in_full: its name in a sentence.
    beside: further scores by name, which are printed next to the best one.
    further: those that are printed behind the comparison.
    achieves: what a network does, with the places {value} (in percent) and {images}.
    note: what the further scores mean.
  """

  quality: str
  best: Title
  best_in_full: str
  beside: Mapping[str, Title]
  further: Mapping[str, Title]
  achieves: str
  note: str
