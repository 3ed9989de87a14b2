"""The notes of a report: what went wrong in a study, and what may mislead its reader."""

from collections.abc import Sequence

import numpy as np

from attn_flax.report import formats
from attn_flax.report.pages import wording
from attn_flax.study.findings import Cost, Findings, Ratio

# A variant is called unsteady where the standard deviation between its seeds is more than four
# times the median one of all variants and, for a score in percent, more than two points.
_UNSTEADY, _UNSTEADY_LEAST = 4, 0.02
# A variant is named where its times and its multiply-adds, as ratios to the baseline, differ by
# more than this.
_DISAGREEMENT = 0.1


def notes(findings: Findings) -> list[str]:
  """Sentences to read before the tables: what went wrong, and what may mislead.

  Each kind of note is one sentence for all variants that it is about; failed runs have one for each
  reason.
  """
  return [
    *_failures(findings),
    *_unlike(findings),
    *_unsteady(findings),
    *_disagreements(findings),
    *_unexplained(findings.unexplained),
  ]


def _failures(findings: Findings) -> list[str]:
  """The runs without a result, one sentence for each reason."""
  reasons: dict[str, dict[str, list[int]]] = {}
  for variant in findings.variants:
    for run in variant.runs:
      if run.error:
        reasons.setdefault(run.error, {}).setdefault(variant.name, []).append(run.seed)
  sentences = []
  for reason, failed in reasons.items():
    runs = formats.listing([f'{name} ({_seeds(seeds)})' for name, seeds in failed.items()])
    sentences.append(f'No result for {runs}: {reason}.')
  return sentences


def _seeds(seeds: Sequence[int]) -> str:
  return f'seed{"s" if len(seeds) > 1 else ""} {formats.listing([str(seed) for seed in seeds])}'


def _unlike(findings: Findings) -> list[str]:
  """Says how many devices, commits and package versions the runs were trained with, if several."""
  trained = findings.trained
  counts = {
    'devices': len({one.device for one in trained}),
    'commits': len({one.commit for one in trained}),
    'sets of package versions': len({tuple(sorted(one.packages.items())) for one in trained}),
  }
  differ = [f'{count} different {what}' for what, count in counts.items() if count > 1]
  return [f'The runs were trained with {formats.listing(differ)}.'] if differ else []


def _unsteady(findings: Findings) -> list[str]:
  """Names the variants whose scores vary so much between seeds that a comparison shows little."""
  spreads = {
    v.name: v.performance.best.spread
    for v in findings.variants
    if v.performance and v.performance.best.spread
  }
  usual = float(np.median(list(spreads.values()))) if spreads else 0.0
  best = wording(findings).best
  wide = [
    f'{name} (standard deviation {best.number(spread, fewer=1)}{best.points})'
    for name, spread in spreads.items()
    if spread > max(_UNSTEADY * usual, _UNSTEADY_LEAST * best.is_share)
  ]
  if not wide:
    return []
  return [
    f'Scores vary widely between the seeds of {formats.listing(wide)}; the median standard'
    f' deviation of all variants is {best.number(usual, fewer=1)}{best.points}. Training is'
    ' unsteady under this recipe: more epochs or a sweep of the learning rate may reduce the'
    ' spread.'
  ]


def _disagreements(findings: Findings) -> list[str]:
  """Names the variants whose times relative to the baseline differ from their multiply-adds."""
  costs = {variant.name: variant.cost for variant in findings.variants if variant.cost}
  base = costs.get(findings.baseline)
  if base is None:
    return []
  apart = [
    (name, cost.macs / base.macs, sorted(time.ratio for time in _times(cost)))
    for name, cost in costs.items()
    if _disagree(cost, cost.macs / base.macs)
  ]
  if not apart:
    return []
  clauses = [
    f'{name} has {_ratio(macs)} the multiply-adds and takes'
    f' {" to ".join(dict.fromkeys((_ratio(least), _ratio(most))))} the time'
    for name, macs, (least, _, most) in apart
  ]
  return [
    f'Multiply-adds do not predict time here. Relative to {findings.baseline}, {"; ".join(clauses)}'
    ' (smallest to largest ratio among a training step, one image, and an evaluation batch).'
  ]


def _times(cost: Cost) -> tuple[Ratio, ...]:
  return cost.step_ms, cost.latency_ms, cost.throughput_ms


def _disagree(cost: Cost, macs: float) -> bool:
  """Whether both quartiles of a time's ratio are far from that of the multiply-adds, `macs`."""
  return any(
    time.low > macs + _DISAGREEMENT or time.high < macs - _DISAGREEMENT for time in _times(cost)
  )


def _ratio(value: float) -> str:
  return f'×{formats.number(value, 2)}'


def _unexplained(seeds: Sequence[int]) -> list[str]:
  if not seeds:
    return []
  return [
    f'For {_seeds(seeds)}, no test image is predicted correctly by all variants, so no explanations'
    ' are scored.'
  ]
