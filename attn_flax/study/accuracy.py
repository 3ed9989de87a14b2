"""How well each variant classifies, from the logits of its runs on the same test images."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from attn_flax.report import formats
from attn_flax.study import statistics
from attn_flax.study.findings import Accuracy
from attn_flax.tasks import classification

# A variant is called unsteady where its seeds' standard deviation is more than so many times the
# median one, and more than two points.
_UNSTEADY, _UNSTEADY_LEAST = 4, 0.02

# {variant: {seed: logits [n, K]}}
Logits = Mapping[str, Mapping[int, np.ndarray]]


def hits(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
  """Which images [n] have their label among the k likeliest classes: 1.0 or 0.0.

  As in training (`metrics.score_sums`), ties count against the label.
  """
  own = np.take_along_axis(logits, labels[:, None].astype(int), axis=1)
  return ((~(logits < own)).sum(1) <= k).astype(float)


def compare(logits: Logits, labels: np.ndarray, baseline: str) -> dict[str, Accuracy]:
  """The accuracy of each variant and its difference to the baseline's."""
  top1 = {
    name: np.stack([hits(found, labels) for found in runs.values()])
    for name, runs in logits.items()
  }
  seeds = statistics.seed_variance(list(top1.values()))
  comparisons = len(top1.keys() - {baseline})
  found = {}
  for name, runs in logits.items():
    difference, verdict, detectable = None, '', None
    if name != baseline and baseline not in top1:
      verdict = 'not enough seeds'
    elif name != baseline:
      estimate = statistics.difference(
        top1[name], top1[baseline], seeds=seeds, comparisons=comparisons
      )
      verdict = statistics.verdict(estimate)
      if estimate.seeds >= statistics.FEWEST_SEEDS:
        difference = estimate._replace(low=max(estimate.low, -1.0), high=min(estimate.high, 1.0))
        least = statistics.detectable(estimate.standard_error, estimate.df, comparisons)
        detectable = least if least < 1 else None
    fives = top5(list(runs.values()), labels)
    errors = [calibration_error(run, labels) for run in runs.values()]
    counts = [classification.confusion(run, labels) for run in runs.values()]
    of_class = np.bincount(labels, minlength=len(counts[0]))
    shares = np.mean([count.diagonal() for count in counts], axis=0) / np.maximum(of_class, 1)
    found[name] = Accuracy(
      seeds=len(runs),
      top1=float(top1[name].mean()),
      top1_spread=_spread(top1[name].mean(1)),
      top5=None if fives is None else float(np.mean(fives)),
      top5_spread=None if fives is None else _spread(fives),
      difference=difference,
      verdict=verdict,
      detectable=detectable,
      per_class=np.where(of_class, shares, np.nan),
      calibration_error=float(np.mean(errors)),
      calibration_spread=_spread(errors),
      confusion=np.sum(counts, axis=0),
    )
  return found


def top5(runs: Sequence[np.ndarray], labels: np.ndarray) -> list[float] | None:
  """Top-5 of each run; None where there are no more than five classes."""
  if runs[0].shape[1] <= 5:
    return None
  return [float(hits(run, labels, 5).mean()) for run in runs]


def unsteady(accuracies: Mapping[str, Accuracy]) -> list[str]:
  """Sentences about variants whose seeds differ so much that a comparison tells little."""
  spreads = {n: found.top1_spread for n, found in accuracies.items() if found.top1_spread}
  usual = float(np.median(list(spreads.values()))) if spreads else 0.0
  return [
    f'{name}: its seeds differ much (standard deviation {formats.percent(spread, 1)} points; the '
    f'median of all variants is {formats.percent(usual, 1)}). Its training is not steady under '
    'this recipe; another one, such as more epochs or a sweep of the rate, would tell more.'
    for name, spread in spreads.items()
    if spread > max(_UNSTEADY * usual, _UNSTEADY_LEAST)
  ]


def calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
  """Expected calibration error of one run."""
  return statistics.expected_calibration_error(special.softmax(logits, axis=1), labels)


def _spread(values: Sequence[float] | np.ndarray) -> float | None:
  return float(np.std(values, ddof=1)) if len(values) > 1 else None
