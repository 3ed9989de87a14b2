"""Writes the findings of a study as HTML, Markdown and CSV."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

from attn_flax.report import html, markdown
from attn_flax.report.document import all_illustrations, all_tables, sections
from attn_flax.report.facts import title
from attn_flax.report.tables import cells
from attn_flax.report.tables.cells import Value
from attn_flax.report.tables.results import state
from attn_flax.study.findings import Findings
from attn_flax.training.artifacts import replacing


def write_report(findings: Findings, folder: pathlib.Path) -> None:
  """Writes `report.html`, `report.md`, `results.csv`, `runs.csv` and `plots/*.png` into a folder.

  `report.html` needs no other file. `results.csv` has a row per variant, with the means over its
  runs, and `runs.csv` a row per run, with its own scores. Both contain shares (not percent),
  milliseconds and counts with all their digits; unknown values are empty.

  Args:
    findings: the findings of the study.
    folder: where to write; created if missing. An older report in it is replaced, together with the
      plots that its `report.md` shows.
  """
  document, heading = sections(findings), title(findings)
  plots = folder / 'plots'
  plots.mkdir(parents=True, exist_ok=True)
  older = folder / 'report.md'
  before = older.read_text(encoding='utf-8', errors='replace') if older.exists() else ''
  for name in markdown.pictures(before):
    (plots / name).unlink(missing_ok=True)
  for illustration in all_illustrations(document):
    with replacing(plots / f'{illustration.name}.png') as partial:
      partial.write_bytes(illustration.png)
  for name, text in (
    ('report.html', html.render(heading, document)),
    ('report.md', markdown.render(heading, document)),
  ):
    with replacing(folder / name) as partial:
      partial.write_text(text, encoding='utf-8')
  variants = cells.results(all_tables(document), findings.variants)
  _write(folder / 'results.csv', list(variants[0]), variants)
  runs = [run for variant in findings.variants for run in variant.runs]
  scores = list(dict.fromkeys(name for run in runs for name in run.scores))
  _write(
    folder / 'runs.csv',
    ['variant', 'seed', 'state', *scores, 'error', 'folder', 'command'],
    [
      {
        'variant': run.variant,
        'seed': run.seed,
        'state': state(run),
        **run.scores,
        'error': run.error,
        'folder': run.folder,
        'command': run.command,
      }
      for run in runs
    ],
  )


def _write(path: pathlib.Path, columns: Sequence[str], rows: Sequence[Mapping[str, Value]]) -> None:
  with replacing(path) as partial, partial.open('w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(rows)
