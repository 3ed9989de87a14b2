"""Tables and their cells, from which HTML, Markdown and CSV are rendered.

A cell holds the text to print and the values behind it, by column of `results.csv`. Texts are in
the unit that the column's title names; the CSV keeps the shares, milliseconds and counts of
`Findings`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from attn_flax.report import formats
from attn_flax.study.findings import Variant

Value = float | int | str | None


@dataclasses.dataclass(frozen=True)
class Cell:
  """One cell of a table.

  Attributes:
    text: what is printed.
    detail: what is printed smaller beside it: a spread, an interval, a ratio.
    values: its values in `results.csv`, {column: value}.
    variant: the variant whose row of `results.csv` they belong to.
    order: what the table is sorted by; None: the first of `values`, else the text.
    tone: a verdict, by which the cell may be colored.
    code: whether the text is printed as code.
  """

  text: str
  detail: str = ''
  values: Mapping[str, Value] = dataclasses.field(default_factory=dict)
  variant: str = ''
  order: Value = None
  tone: str = ''
  code: bool = False

  @property
  def key(self) -> Value:
    """The value that the table is sorted by; None where it is not known."""
    if self.order is not None:
      return self.order
    return _known(next(iter(self.values.values()), self.text))


@dataclasses.dataclass(frozen=True)
class Column:
  """The title of a column, and whether its cells are numbers."""

  title: str
  numeric: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
  """A table; `note` explains its columns, and `id` is the target of links to it."""

  id: str
  title: str
  columns: Sequence[Column]
  rows: Sequence[Sequence[Cell]]
  note: str = ''


NO_CELL = Cell(formats.NONE)


def name_cell(variant: Variant, detail: str = '') -> Cell:
  """The first cell of a variant's row."""
  return Cell(variant.name, detail, {'variant': variant.name}, variant.name)


def verdict_cell(verdict: str, *, is_baseline: bool = False) -> Cell:
  """A verdict in words, 'n/a' for none; the cell of the difference has it for `results.csv`."""
  text = 'baseline' if is_baseline else verdict or formats.NONE
  return Cell(text, order=text, tone=verdict)


def results(tables: Iterable[Table], variants: Sequence[Variant]) -> list[dict[str, Value]]:
  """The rows of `results.csv`, {column: value}: all values of all tables, a row per variant."""
  found: dict[str, dict[str, Value]] = {variant.name: {} for variant in variants}
  columns: dict[str, None] = {}
  for table in tables:
    for row in table.rows:
      for cell in row:
        if cell.values:
          found[cell.variant].update(cell.values)
          columns.update(dict.fromkeys(cell.values))
  return [{column: _known(row.get(column)) for column in columns} for row in found.values()]


def _known(value: Value) -> Value:
  return None if isinstance(value, float) and math.isnan(value) else value
