"""The tables of accuracy, cost, published results, runs and conditions."""

import dataclasses

import numpy as np

from attn_flax.report import formats
from attn_flax.report.tables.cells import (
  NO_CELL,
  Cell,
  Column,
  Table,
  Value,
  name_cell,
  verdict_cell,
)
from attn_flax.study.findings import Cost, Findings, Ratio, Variant

# More classes than this are not listed one by one, but those where the variants differ most.
LISTED_CLASSES = 40


def accuracy(findings: Findings) -> Table:
  """Top-1 and top-5, the difference to the baseline and its verdict, and calibration."""
  rows = []
  for variant in findings.variants:
    found = variant.accuracy
    if found is None:
      rows.append([name_cell(variant, variant.mechanism), *[NO_CELL] * 7])
      continue

    def cell(text: str, detail: str = '', name: str = variant.name, **values: Value) -> Cell:
      return Cell(text, detail, values, name)

    spread, difference = found.top1_spread, found.difference
    rows.append(
      [
        name_cell(variant, variant.mechanism),
        cell(str(found.seeds), seeds=found.seeds),
        cell(
          formats.percent(found.top1),
          _spread(spread),
          top1_mean=found.top1,
          top1_spread=spread,
        ),
        cell(
          formats.percent(found.top5),
          _spread(found.top5_spread),
          top5_mean=found.top5,
          top5_spread=found.top5_spread,
        ),
        cell(
          formats.points(difference.mean if difference else None),
          formats.interval(difference, 2, 100),
          difference=difference.mean if difference else None,
          difference_low=difference.low if difference else None,
          difference_high=difference.high if difference else None,
        ),
        verdict_cell(
          found.verdict, variant.name, 'verdict', is_baseline=variant.name == findings.baseline
        ),
        cell(formats.percent(found.detectable), detectable=found.detectable),
        cell(
          formats.number(found.calibration_error, 4),
          ''
          if found.calibration_spread is None
          else formats.plus_minus(formats.number(found.calibration_spread, 4)),
          calibration_error=found.calibration_error,
          calibration_spread=found.calibration_spread,
        ),
      ]
    )
  columns = [
    Column('variant', numeric=False),
    Column('seeds'),
    Column('top-1, %'),
    Column('top-5, %'),
    Column('difference, points'),
    Column('verdict', numeric=False),
    Column('detectable, points'),
    Column('calibration error'),
  ]
  note = (
    f'Means over the seeds on {formats.number(findings.test_images, 0)} test images; ± is the'
    ' standard deviation between seeds. Difference: top-1 less that of'
    f' {findings.baseline}, with its 95 % interval. The interval holds both sources of chance,'
    ' seeds and test images, is paired on the same images, and is corrected for the number of'
    ' variants compared. Detectable: the true difference that the study would have found in four'
    ' of five cases. Calibration error: expected calibration error, 0 is best.'
  )
  return Table('accuracy', 'Accuracy', columns, rows, note)


def _spread(value: float | None) -> str:
  return '' if value is None else formats.plus_minus(formats.percent(value))


def per_class(findings: Findings) -> Table | None:
  """Share of each class that is classified correctly; None where no run has finished."""
  scored = [(v.name, v.accuracy) for v in findings.variants if v.accuracy is not None]
  if not scored:
    return None
  shares = np.stack([found.per_class for _, found in scored])
  listed = np.arange(len(findings.class_names))
  note = 'Share of the test images of a class that are classified correctly, mean over the seeds.'
  if len(listed) > LISTED_CLASSES:
    widest = np.argsort(-np.ptp(shares, axis=0), kind='stable')[:LISTED_CLASSES]
    listed = np.sort(widest)
    note += (
      f' Of {len(findings.class_names)} classes, the {LISTED_CLASSES} where variants differ most.'
    )
  rows = [
    [
      Cell(str(findings.class_names[int(k)]), order=int(k)),
      *(
        Cell(formats.percent(share, 1), '', {f'top1_class_{k}': float(share)}, name)
        for (name, _), share in zip(scored, shares[:, k], strict=True)
      ),
    ]
    for k in listed
  ]
  columns = [Column('class', numeric=False), *(Column(f'{name}, %') for name, _ in scored)]
  return Table('classes', 'Accuracy of each class', columns, rows, note)


def cost(findings: Findings) -> Table:
  """Sizes, times and memory, with their ratios to the baseline."""
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
    Column('compiling, s'),
  ]
  costs = [variant.cost for variant in findings.variants if variant.cost is not None]
  note = (
    '×: ratio to the baseline. Times are medians of rounds in which all variants take turns; behind'
    ' their ratio, which is taken round by round, stand its quartiles. Multiply-adds are those of'
    ' one image forward; peak memory and compiling are those of the training step. Compiling is'
    ' measured once, and takes less where a persistent compilation cache helps.'
  )
  if costs:
    note += (
      f' Batches: {costs[0].train_batch} images in training, {costs[0].eval_batch} in evaluation.'
    )
  return Table('cost', 'Cost', columns, [_filled(row, len(columns)) for row in rows], note)


def _filled(row: list[Cell], length: int) -> list[Cell]:
  return row + [NO_CELL] * (length - len(row))


def _cost_cells(variant: Variant, found: Cost, base: Cost | None) -> list[Cell]:
  def of_base(name: str) -> float | None:
    whole = getattr(base, name) if base else 0
    return getattr(found, name) / whole if whole else None

  def plain(text: str, name: str) -> Cell:
    ratio = of_base(name)
    values = {name: getattr(found, name), f'{name}_ratio': ratio}
    return Cell(text, formats.times(ratio), values, variant.name)

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
    plain(formats.large(found.params), 'params'),
    plain(formats.large(found.macs), 'macs'),
    timed('step', found.step_ms),
    rate('train_images_per_second', found.train_batch, found.step_ms),
    timed('latency', found.latency_ms),
    dataclasses.replace(
      throughput,
      values={**throughput.values, **timed('throughput', found.throughput_ms).values},
    ),
    plain(formats.magnitude(found.peak_mb), 'peak_mb'),
    plain(formats.magnitude(found.compile_seconds), 'compile_seconds'),
  ]


def published(findings: Findings) -> Table | None:
  """What papers say of the same mechanisms, beside our results; None where they say nothing."""
  rows = []
  for variant in findings.variants:
    found = variant.accuracy
    for row in variant.published:
      gain = float(row['top1']) - float(row['baseline_top1'])
      rows.append(
        [
          Cell(variant.name),
          Cell(formats.percent(found.top1 if found else None), order=found.top1 if found else None),
          Cell(
            formats.points(found.difference.mean if found and found.difference else None),
            order=found.difference.mean if found and found.difference else None,
          ),
          Cell(f'{row["mechanism"]} in {row["network"]}', row['dataset']),
          Cell(row['baseline_top1'], order=float(row['baseline_top1'])),
          Cell(row['top1'], order=float(row['top1'])),
          Cell(formats.signed(gain, 2), order=gain),
          Cell(row['recipe'] or 'not known'),
          Cell(f'{row["paper"]}, {row["table"]}', row['source'].removeprefix('https://')),
        ]
      )
  columns = [
    Column('variant', numeric=False),
    Column('here: top-1, %'),
    Column('here: difference, points'),
    Column('published for', numeric=False),
    Column('published baseline, %'),
    Column('published top-1, %'),
    Column('published difference, points'),
    Column('published recipe', numeric=False),
    Column('source', numeric=False),
  ]
  note = (
    f'Columns that begin with “here” are this study’s, on {findings.dataset}; the others are'
    ' printed in the papers. Dataset, network and recipe differ, so that the two are not to be'
    ' compared number by number. Papers print one run, as far as they say.'
  )
  return Table('published', 'Published accuracies', columns, rows, note) if rows else None


def runs(findings: Findings) -> Table:
  """Every run with the command that makes it again; failed ones with their error."""
  rows = [
    [
      Cell(variant.name),
      Cell(str(run.seed), order=run.seed),
      Cell(formats.percent(run.top1), order=run.top1),
      Cell(formats.percent(run.top5), order=run.top5),
      Cell('failed', run.error, tone='worse')
      if run.error
      else Cell('finished' if run.top1 is not None else 'no result'),
      Cell(run.folder, code=True),
      Cell(run.command, code=True),
    ]
    for variant in findings.variants
    for run in variant.runs
  ]
  columns = [
    Column('variant', numeric=False),
    Column('seed'),
    Column('top-1, %'),
    Column('top-5, %'),
    Column('state', numeric=False),
    Column('folder', numeric=False),
    Column('command', numeric=False),
  ]
  return Table('runs', 'Runs', columns, rows, 'Each command makes its row again.')


def conditions(findings: Findings) -> Table:
  """All that the results depend on."""
  rows = [
    [Cell(formats.words(name)), Cell(formats.words(value), code=name == 'command')]
    for name, value in findings.conditions.items()
  ]
  columns = [Column('condition', numeric=False), Column('value', numeric=False)]
  return Table('conditions', 'Conditions', columns, rows)
