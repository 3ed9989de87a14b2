"""The report as GitHub Markdown."""

import re
from collections.abc import Sequence

from attn_flax.report.figures.style import Illustration
from attn_flax.report.parts import Fold, Gallery, Part, Points, Section
from attn_flax.report.tables.cells import Cell, Table

# Characters that Markdown reads as markup; an underscore only where it is not inside a word.
_MARKUP = re.compile(r'[\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_])')
_ENTITIES = {'&': '&amp;', '<': '&lt;', '>': '&gt;'}


def escape(text: str) -> str:
  """Text on one line in which Markdown sees no markup, also inside a table."""
  text = ' '.join(text.split())
  text = ''.join(_ENTITIES.get(letter, letter) for letter in text)
  return _MARKUP.sub(lambda match: '\\' + match[0], text)


def render(title: str, document: Sequence[Section]) -> str:
  """The text of `report.md`; illustrations are links to `plots/`."""
  lines = [f'# {escape(title)}', '']
  for section in document:
    lines += [f'## {escape(section.title)}', '']
    for paragraph in section.paragraphs:
      lines += [escape(paragraph), '']
    for part in section.parts:
      lines += _part(part, section)
  return '\n'.join(lines)


def _part(part: Part, section: Section) -> list[str]:
  if isinstance(part, Table):
    return _table(part, section)
  if isinstance(part, Points):
    return [*(f'- {escape(sentence)}' for sentence in part.sentences), '']
  if isinstance(part, Fold):
    inner = [line for one in part.parts for line in _part(one, section)]
    return [f'<details><summary>{escape(part.title)}</summary>', '', *inner, '</details>', '']
  illustrations = part.illustrations if isinstance(part, Gallery) else [part]
  return [line for illustration in illustrations for line in _illustration(illustration)]


def pictures(text: str) -> list[str]:
  """Names of the files in `plots/` that the text of a `report.md` shows."""
  return re.findall(r'\]\(plots/(\w+\.png)\)', text)


def _table(table: Table, section: Section) -> list[str]:
  lines = [] if table.title == section.title else [f'### {escape(table.title)}', '']
  if table.note:
    lines += [escape(table.note), '']
  lines += [
    _row([escape(column.title) for column in table.columns]),
    _row(['---:' if column.numeric else '---' for column in table.columns]),
    *(_row([_cell(cell) for cell in row]) for row in table.rows),
  ]
  return [*lines, '']


def _row(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |'


def _cell(cell: Cell) -> str:
  text = escape(cell.text)
  # Code spans have no escapes, so text with markup is escaped and printed without one.
  if cell.code and cell.text and not set(cell.text) & set('`<>|\\\n'):
    text = f'`{cell.text}`'
  return f'{text} ({escape(cell.detail)})' if cell.detail else text


def _illustration(illustration: Illustration) -> list[str]:
  caption = [escape(illustration.caption), ''] if illustration.caption else []
  return [
    f'### {escape(illustration.title)}',
    '',
    f'![{escape(illustration.alt)}](plots/{illustration.name}.png)',
    '',
    *caption,
  ]
