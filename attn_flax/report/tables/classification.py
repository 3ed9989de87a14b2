"""The tables that are specific to classification: accuracy by class, and published accuracies."""

from collections.abc import Mapping

import numpy as np

from attn_flax.report import formats, published
from attn_flax.report.tables.cells import Cell, Column, Table
from attn_flax.study.findings import Findings

# With more classes than this, only those where the variants differ most are listed.
LISTED_CLASSES = 40


def class_shares(confusions: np.ndarray) -> np.ndarray:
  """The share of each class's images that is classified correctly, mean over the runs.

  Args:
    confusions: [S, K, K] confusion matrices, counts, one for each run; rows are labels, columns
      predictions.

  Returns:
    [K] in 0..1; NaN for a class without images.
  """
  return _shares(confusions[0].sum(1), np.stack([counts.diagonal() for counts in confusions]))


def _shares(of_class: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Shares [K], from the images of each class [K] and those that each run has right [S, K]."""
  return np.where(of_class, right.mean(0) / np.maximum(of_class, 1), np.nan)


def _shares_of(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
  """The shares [K] of a variant; with thousands of classes it stores no confusion matrix."""
  if 'confusion' in arrays:
    return class_shares(arrays['confusion'])
  return _shares(arrays['class_images'][0], arrays['class_right'])


def per_class(findings: Findings) -> Table | None:
  """The accuracy of each class in percent, by variant; None where no run has finished."""
  scored = [(v.name, v.performance) for v in findings.variants if v.performance is not None]
  if not scored:
    return None
  shares = np.stack([_shares_of(found.arrays) for _, found in scored])
  listed = np.arange(len(findings.class_names))
  note = 'Share of the test images of a class that are classified correctly, mean over the seeds.'
  if len(listed) > LISTED_CLASSES:
    widest = np.argsort(-np.ptp(shares, axis=0), kind='stable')[:LISTED_CLASSES]
    listed = np.sort(widest)
    note += (
      f' Of {formats.number(len(findings.class_names), 0)} classes, the {LISTED_CLASSES} where the'
      ' variants differ most are listed.'
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


def published_accuracies(findings: Findings) -> Table | None:
  """Accuracies from papers on the same mechanisms, beside this study's; None without any."""
  rows = []
  for variant in findings.variants:
    found = variant.performance
    best = found.best.value if found else None
    change = found.difference.mean if found and found.difference else None
    for row in published.of_variant(variant):
      gain = float(row['top1']) - float(row['baseline_top1'])
      rows.append(
        [
          Cell(variant.name),
          Cell(formats.percent(best), order=best),
          Cell(formats.points(change), order=change),
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
    f'Columns that begin with “here” are from this study, on {findings.dataset}; the others are'
    ' from the papers. Dataset, network and recipe differ, so the two cannot be compared number by'
    ' number. As far as the papers say, their numbers are from a single run.'
  )
  return Table('published', 'Published accuracies', columns, rows, note) if rows else None
