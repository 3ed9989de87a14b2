"""The parts of a report, the same for HTML and Markdown."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from attn_flax.report.figures.style import Illustration
from attn_flax.report.tables.cells import Table
from attn_flax.report.wording import Wording
from attn_flax.study.findings import Findings


@dataclasses.dataclass(frozen=True)
class Gallery:
  """Illustrations that are shown side by side where there is room."""

  illustrations: Sequence[Illustration]


@dataclasses.dataclass(frozen=True)
class Points:
  """Sentences as a bulleted list."""

  sentences: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Fold:
  """Parts that a reader opens by a click on their title."""

  title: str
  parts: 'Sequence[Part]'


Part = Table | Illustration | Gallery | Points | Fold


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of the report.

  Attributes:
    id: the target of links to it.
    title: its heading.
    paragraphs: its text, printed before its parts.
    parts: tables, illustrations and lists.
  """

  id: str
  title: str
  paragraphs: Sequence[str] = ()
  parts: Sequence[Part] = ()


@dataclasses.dataclass(frozen=True)
class Pages:
  """The parts of a report that are specific to a task.

  Attributes:
    wording: the terms for its scores.
    scores: makes the parts that follow the table of scores and the learning curves; None stands for
      a part for which the study has no data.
    further: makes sections that follow the pictures; those without parts are left out.
  """

  wording: Wording
  scores: Callable[[Findings], list[Part | None]]
  further: Callable[[Findings], list[Section]]


def gallery(illustrations: Sequence[Illustration]) -> Gallery | None:
  """The illustrations side by side; None for an empty list."""
  return Gallery(illustrations) if illustrations else None


def fold(title: str, part: Part | None) -> Fold | None:
  """A part that is folded under a title; None for None."""
  return Fold(title, [part]) if part is not None else None


def leaves(parts: Iterable[Part]) -> Iterator[Table | Illustration | Points]:
  """The tables, illustrations and lists in some parts, galleries and folds opened, in order."""
  for part in parts:
    if isinstance(part, Gallery):
      yield from part.illustrations
    elif isinstance(part, Fold):
      yield from leaves(part.parts)
    else:
      yield part
