"""The tables of performance, cost, runs and conditions."""

import dataclasses

from attn_flax.report import formats
from attn_flax.report.facts import conditions as conditions_of
from attn_flax.report.facts import mechanism
from attn_flax.report.pages import wording
from attn_flax.report.tables.cells import (
  NO_CELL,
  Cell,
  Column,
  Table,
  name_cell,
  verdict_cell,
)
from attn_flax.report.wording import Title
from attn_flax.study.findings import Cost, Findings, Mean, Ratio, Run, Variant
from attn_flax.study.statistics import Verdict


def summary(findings: Findings) -> Table:
  """Verdict, score, difference and step time of each variant; adds nothing to `results.csv`."""
  words = wording(findings)
  rows = []
  for variant in findings.variants:
    found, cost = variant.performance, variant.cost
    difference = found.difference if found else None
    verdict = verdict_cell(
      found.verdict if found else 'no result',
      is_baseline=found is not None and variant.name == findings.baseline,
    )
    best, gain = found.best.value if found else None, difference.mean if difference else None
    step = cost.step_ms.ratio if cost else None
    rows.append(
      [
        Cell(variant.name),
        verdict,
        Cell(words.best.number(best), order=best),
        Cell(words.best.change(gain), words.best.interval(difference), order=gain),
        Cell(formats.times(step), order=step),
      ]
    )
  columns = [
    Column('variant', numeric=False),
    Column('verdict', numeric=False),
    Column(words.best.heading),
    Column(_in_points('difference', words.best)),
    Column('step time'),
  ]
  return Table('summary', 'Answer', columns, rows)


def performance(findings: Findings) -> Table:
  """The scores of each variant, the difference to the baseline and its verdict."""
  words = wording(findings)
  scores = {**words.beside, **words.further}
  rows = []
  for variant in findings.variants:
    found, name = variant.performance, variant.name
    if found is None:
      rows.append([name_cell(variant), *[NO_CELL] * (5 + len(scores)), _mechanism(variant)])
      continue
    difference = found.difference
    cells = {
      score: _score(title, found.further.get(score), name) for score, title in scores.items()
    }
    rows.append(
      [
        name_cell(variant),
        verdict_cell(found.verdict, is_baseline=name == findings.baseline),
        Cell(str(found.seeds), '', {'seeds': found.seeds}, name),
        _score(words.best, found.best, name),
        *(cells[score] for score in words.beside),
        Cell(
          words.best.change(difference.mean if difference else None),
          words.best.interval(difference),
          {
            'difference': difference.mean if difference else None,
            'difference_low': difference.low if difference else None,
            'difference_high': difference.high if difference else None,
            'verdict': found.verdict,
          },
          name,
        ),
        Cell(words.best.number(found.detectable), '', {'detectable': found.detectable}, name),
        *(cells[score] for score in words.further),
        _mechanism(variant),
      ]
    )
  columns = [
    Column('variant', numeric=False),
    Column('verdict', numeric=False),
    Column('seeds'),
    *(Column(title.heading) for title in (words.best, *words.beside.values())),
    Column(_in_points('difference', words.best)),
    Column(_in_points('detectable', words.best)),
    *(Column(title.heading) for title in words.further.values()),
    Column('mechanism', numeric=False),
  ]
  note = (
    f'Means over the seeds on {formats.number(findings.test_images, 0)} test images; ± is the'
    f' standard deviation between seeds. Difference: {words.best.name} minus that of'
    f' {findings.baseline}, with its 95 % interval. The interval accounts for both sources of'
    ' randomness, seeds and test images; it is paired by image and corrected for the number of'
    ' variants. Detectable: the smallest true difference that the study finds with 80 % power.'
    f' {words.note}'
  )
  return Table(words.quality, words.quality.capitalize(), columns, rows, note)


def _in_points(name: str, best: Title) -> str:
  return f'{name},{best.points}' if best.points else name


def _mechanism(variant: Variant) -> Cell:
  return Cell(mechanism(variant) or formats.NONE)


def _score(title: Title, found: Mean | None, variant: str) -> Cell:
  """The mean of a score over the runs, and their standard deviation."""
  value, spread = found or (None, None)
  detail = '' if spread is None else formats.plus_minus(title.number(spread))
  mean_column, spread_column = title.columns
  values = {mean_column: value, spread_column: spread}
  return Cell(title.number(value), detail, values, variant)


def cost(findings: Findings) -> Table:
  """Parameters, multiply-adds, times and memory, with their ratios to the baseline."""
  base = next((v.cost for v in findings.variants if v.name == findings.baseline), None)
  rows = [
    [name_cell(variant), *(_cost_cells(variant, variant.cost, base) if variant.cost else [])]
    for variant in findings.variants
  ]
  columns = [
    Column('variant', numeric=False),
    Column('parameters'),
    Column('multiply-adds'),
    Column('training step, ms'),
    Column('training, images/s'),
    Column('latency at batch 1, ms'),
    Column('evaluation, images/s'),
    Column('peak memory, MB'),
    Column('compilation, s'),
  ]
  costs = [variant.cost for variant in findings.variants if variant.cost is not None]
  note = (
    '×: ratio to the baseline. Times are medians over rounds, in each of which all variants are'
    ' timed in turn; ratios of times are computed in each round and printed as their median and, in'
    ' brackets, their quartiles. Multiply-adds are for the forward pass of one image; peak memory,'
    ' as the compiler reports it, and compilation are for the training step. Compilation is timed'
    ' once, of a program that is compiled anew.'
  )
  if costs:
    note += f' Batch size: {costs[0].train_batch} in training, {costs[0].eval_batch} in evaluation.'
  return Table('cost', 'Cost', columns, [_filled(row, len(columns)) for row in rows], note)


def _filled(row: list[Cell], length: int) -> list[Cell]:
  return row + [NO_CELL] * (length - len(row))


def _cost_cells(variant: Variant, found: Cost, base: Cost | None) -> list[Cell]:
  def plain(text: str, name: str, value: float, of_base: float | None) -> Cell:
    ratio = value / of_base if of_base else None
    return Cell(text, formats.times(ratio), {name: value, f'{name}_ratio': ratio}, variant.name)

  def timed(name: str, measured: Ratio) -> Cell:
    quartiles = formats.bounds(formats.number(measured.low, 2), formats.number(measured.high, 2))
    detail = f'{formats.times(measured.ratio)} {quartiles}'
    values = {
      f'{name}_ms': measured.median,
      f'{name}_ratio': measured.ratio,
      f'{name}_ratio_low': measured.low,
      f'{name}_ratio_high': measured.high,
    }
    return Cell(formats.magnitude(measured.median), detail, values, variant.name)

  def rate(name: str, images: int, measured: Ratio) -> Cell:
    per_second = 1000 * images / measured.median
    quartiles = (formats.number(1 / share, 2) for share in (measured.high, measured.low))
    detail = f'{formats.times(1 / measured.ratio)} {formats.bounds(*quartiles)}'
    return Cell(formats.magnitude(per_second), detail, {name: per_second}, variant.name)

  throughput = rate('images_per_second', found.eval_batch, found.throughput_ms)
  return [
    plain(formats.large(found.params), 'params', found.params, base.params if base else None),
    plain(formats.large(found.macs), 'macs', found.macs, base.macs if base else None),
    timed('step', found.step_ms),
    rate('train_images_per_second', found.train_batch, found.step_ms),
    timed('latency', found.latency_ms),
    dataclasses.replace(
      throughput,
      values={**throughput.values, **timed('throughput', found.throughput_ms).values},
    ),
    plain(
      formats.magnitude(found.peak_mb), 'peak_mb', found.peak_mb, base.peak_mb if base else None
    ),
    plain(
      formats.magnitude(found.compile_seconds),
      'compile_seconds',
      found.compile_seconds,
      base.compile_seconds if base else None,
    ),
  ]


def runs(findings: Findings) -> Table:
  """Every run with its scores and the command that reproduces it; failed ones with the error."""
  words = wording(findings)
  titles = {findings.task.best: words.best, **words.beside}
  rows = [
    [
      Cell(variant.name),
      Cell(str(run.seed), order=run.seed),
      *(
        Cell(title.number(run.scores.get(score)), order=run.scores.get(score))
        for score, title in titles.items()
      ),
      Cell(state(run), run.error, tone=Verdict.WORSE if run.error else ''),
      Cell(run.folder, code=True),
      Cell(run.command, code=True),
    ]
    for variant in findings.variants
    for run in variant.runs
  ]
  columns = [
    Column('variant', numeric=False),
    Column('seed'),
    *(Column(title.heading) for title in titles.values()),
    Column('state', numeric=False),
    Column('folder', numeric=False),
    Column('command', numeric=False),
  ]
  return Table('runs', 'Runs', columns, rows, 'Each command reproduces its row.')


def state(run: Run) -> str:
  """The state of a run: 'finished', 'failed' or 'no result'."""
  return 'failed' if run.error else 'finished' if run.scores else 'no result'


def conditions(findings: Findings) -> Table:
  """What the results depend on besides the attention, see `facts.conditions`."""
  rows = [
    [Cell(name), Cell(formats.one_line(value), code=name == 'command')]
    for name, value in conditions_of(findings).items()
  ]
  columns = [Column('condition', numeric=False), Column('value', numeric=False)]
  return Table('conditions', 'Conditions', columns, rows)
