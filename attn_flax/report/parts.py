"""What a report is made of before it is HTML or Markdown."""

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
  """Sentences, each of them a point of a list."""

  sentences: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Fold:
  """Parts that are hidden below a line until a reader opens it."""

  title: str
  parts: 'Sequence[Part]'


Part = Table | Illustration | Gallery | Points | Fold


@dataclasses.dataclass(frozen=True)
class Section:
  """A section.

  Attributes:
    id: what links name it.
    title: its heading.
    paragraphs: its text, before its parts.
    parts: tables, illustrations and further text.
  """

  id: str
  title: str
  paragraphs: Sequence[str] = ()
  parts: Sequence[Part] = ()


@dataclasses.dataclass(frozen=True)
class Pages:
  """What a report has of its own for a task; None stands for a part that a study does not fill.

  Attributes:
    wording: how it speaks of the scores.
    scores: what it shows behind the scores and the curves.
    published: what it shows of other people's results.
  """

  wording: Wording
  scores: Callable[[Findings], list[Part | None]]
  published: Callable[[Findings], list[Part | None]]


def gallery(illustrations: Sequence[Illustration]) -> Gallery | None:
  """The illustrations side by side; None without any."""
  return Gallery(illustrations) if illustrations else None


def fold(title: str, part: Part | None) -> Fold | None:
  """A part that is folded; None where it is missing."""
  return Fold(title, [part]) if part is not None else None


def leaves(parts: Iterable[Part]) -> Iterator[Table | Illustration | Points]:
  """What parts are made of in the end, in their order."""
  for part in parts:
    if isinstance(part, Gallery):
      yield from part.illustrations
    elif isinstance(part, Fold):
      yield from leaves(part.parts)
    else:
      yield part
