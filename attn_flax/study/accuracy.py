"""How well each variant classifies, from the logits of its runs on the same test images."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from attn_flax import metrics, statistics
from attn_flax.report.findings import Accuracy

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
  comparisons = len(top1) - 1
  found = {}
  for name, runs in logits.items():
    difference, verdict, detectable = None, '', None
    if name != baseline:
      estimate = statistics.difference(
        top1[name], top1[baseline], seeds=seeds, comparisons=comparisons
      )
      verdict = statistics.verdict(estimate)
      if estimate.seeds >= statistics.FEWEST_SEEDS:
        difference = estimate
        detectable = statistics.detectable(estimate.standard_error, estimate.df, comparisons)
    errors = [calibration_error(run, labels) for run in runs.values()]
    counts = [metrics.confusion(run, labels) for run in runs.values()]
    per_class = [count.diagonal() / np.maximum(count.sum(1), 1) for count in counts]
    found[name] = Accuracy(
      seeds=len(runs),
      top1=float(top1[name].mean()),
      top1_spread=_spread(top1[name].mean(1)),
      top5=float(np.mean([hits(run, labels, 5).mean() for run in runs.values()])),
      difference=difference,
      verdict=verdict,
      detectable=detectable,
      per_class=np.mean(per_class, axis=0),
      calibration_error=float(np.mean(errors)),
      calibration_spread=_spread(errors),
      confusion=np.sum(counts, axis=0),
    )
  return found


def calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
  """Expected calibration error of one run."""
  return statistics.expected_calibration_error(special.softmax(logits, axis=1), labels)


def _spread(values: Sequence[float] | np.ndarray) -> float | None:
  return float(np.std(values, ddof=1)) if len(values) > 1 else None
