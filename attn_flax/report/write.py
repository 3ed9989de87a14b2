"""Renders what a study found as HTML, Markdown and CSV."""

import csv
import pathlib

from attn_flax.report import html, markdown
from attn_flax.report.document import all_illustrations, all_tables, sections
from attn_flax.report.notes import title
from attn_flax.report.tables import cells
from attn_flax.study.findings import Findings

__all__ = ['write_report']


def write_report(findings: Findings, folder: pathlib.Path) -> None:
  """Writes `report.html`, `report.md`, `results.csv` and `plots/*.png` into a folder.

  `report.html` needs no other file. `results.csv` has a row per variant and contains shares (not
  percent), milliseconds and counts with all their digits; unknown values are empty.

  Args:
    findings: what the study found.
    folder: made where it is missing; an older report in it is replaced.
  """
  document, heading = sections(findings), title(findings)
  plots = folder / 'plots'
  plots.mkdir(parents=True, exist_ok=True)
  older = folder / 'report.md'
  for name in markdown.pictures(older.read_text(encoding='utf-8')) if older.exists() else ():
    (plots / name).unlink(missing_ok=True)
  for illustration in all_illustrations(document):
    (plots / f'{illustration.name}.png').write_bytes(illustration.png)
  for name, text in (
    ('report.html', html.render(heading, document)),
    ('report.md', markdown.render(heading, document)),
  ):
    (folder / name).write_text(text, encoding='utf-8')
  rows = cells.results(all_tables(document), findings.variants)
  with open(folder / 'results.csv', 'w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
