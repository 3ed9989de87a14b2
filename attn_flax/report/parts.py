"""What a report is made of before it is HTML or Markdown."""

import dataclasses
from collections.abc import Callable, Sequence

from attn_flax.report.figures.style import Illustration
from attn_flax.report.tables.cells import Table
from attn_flax.report.wording import Wording
from attn_flax.study.findings import Findings


@dataclasses.dataclass(frozen=True)
class Gallery:
  """Illustrations that are shown side by side where there is room."""

  illustrations: Sequence[Illustration]


Part = Table | Illustration | Gallery


@dataclasses.dataclass(frozen=True)
class Section:
  """A section.

  Attributes:
    id: what links name it.
    title: its heading.
    paragraphs: its text, before its parts.
    parts: tables and illustrations.
    listed: whether the paragraphs are points of a list.
  """

  id: str
  title: str
  paragraphs: Sequence[str] = ()
  parts: Sequence[Part] = ()
  listed: bool = False


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
