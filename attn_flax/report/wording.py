"""What a report calls the scores of a task and of explanations, and how it prints them."""

import dataclasses
from collections.abc import Mapping

from attn_flax.report import formats
from attn_flax.study.explanations import SCORES
from attn_flax.study.statistics import Estimate

# Titles of the scores of explanations, by their names in `study.explanations.SCORES`.
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
  """The title of a score of explanations, by its key in `study.explanations.SCORES`."""
  return _SCORE_TITLES[name]


def score_heading(name: str) -> str:
  """The title of a score of explanations with an arrow: ↑ where higher is better, else ↓."""
  return f'{score_title(name)}\N{NO-BREAK SPACE}{"↑" if SCORES[name] else "↓"}'


@dataclasses.dataclass(frozen=True)
class Title:
  """How a score of a task is printed.

  Attributes:
    name: the name of the score, such as 'mean IoU'.
    columns: its columns in `results.csv`: the mean over the runs, and their standard deviation.
    is_share: whether it lies in 0..1 and is printed in percent.
    digits: number of decimal places.
  """

  name: str
  columns: tuple[str, str]
  is_share: bool = True
  digits: int = 2

  @property
  def heading(self) -> str:
    """The name with the unit, for a column or an axis."""
    return f'{self.name}, %' if self.is_share else self.name

  def number(self, value: float | None, fewer: int = 0) -> str:
    """A value of the score as text, without its unit; 'n/a' for None and NaN.

    Args:
      value: the value.
      fewer: how many of the `digits` are left out.
    """
    return (formats.percent if self.is_share else formats.number)(value, self.digits - fewer)

  @property
  def scale(self) -> int:
    """What a value is multiplied by where it is printed or drawn."""
    return 100 if self.is_share else 1

  @property
  def points(self) -> str:
    """The unit of a difference with a space before it: ' points' for a share, else ''."""
    return ' points' if self.is_share else ''

  def change(self, difference: float | None) -> str:
    """A difference of two values as text, signed, without its unit; 'n/a' for None and NaN."""
    return (formats.points if self.is_share else formats.signed)(difference, self.digits)

  def interval(self, estimate: Estimate | None) -> str:
    """The bounds of a difference, as in '[−0.1, +0.3]'; '' where they are not known."""
    return formats.interval(estimate, self.digits, self.scale)


@dataclasses.dataclass(frozen=True)
class Wording:
  """The terms that the report uses for a task.

  Attributes:
    quality: what the best score measures, such as 'accuracy'.
    best: the score that networks are compared by.
    best_in_full: the name of that score in a sentence, such as 'mean IoU'.
    beside: further scores, {name: title}, in the columns after the best score.
    further: further scores, {name: title}, in the columns after the difference to the baseline.
    achieves: what a network does, with the fields {value} and {images}, such as
      'has a mean IoU of {value} % on {images} test images'.
    note: a sentence that explains the further scores.
  """

  quality: str
  best: Title
  best_in_full: str
  beside: Mapping[str, Title]
  further: Mapping[str, Title]
  achieves: str
  note: str
