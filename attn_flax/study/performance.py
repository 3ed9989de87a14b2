"""The performance of each variant, from the predictions of its runs for the same test images."""

from collections.abc import Mapping, Sequence

import numpy as np

from attn_flax.study import statistics
from attn_flax.study.findings import Mean, Performance
from attn_flax.tasks.task import Predictions, Task

# {variant: {seed: predictions}}
PredictionsOfRuns = Mapping[str, Mapping[int, Predictions]]


def run_scores(task: Task, predictions: Predictions) -> dict[str, float]:
  """The scores of one run by name: `task.best` and the further ones of the task."""
  return {task.best: float(task.examples(predictions).mean()), **task.further(predictions)}


def compare(
  task: Task, predictions: PredictionsOfRuns, baseline: str, class_names: Sequence[str]
) -> dict[str, Performance]:
  """The performance of each variant and its difference to the baseline.

  Args:
    task: what the networks learn.
    predictions: {variant: {seed: predictions}}, all for the same test images.
    baseline: the variant that the others are compared with; it may be missing.
    class_names: names of the classes.

  Returns:
    {variant: performance}.
  """
  examples = {
    name: np.stack([task.examples(run) for run in runs.values()])
    for name, runs in predictions.items()
  }
  seeds = statistics.seed_variance(list(examples.values()))
  comparisons = len(examples.keys() - {baseline})
  most = task.best_range[1] - task.best_range[0]  # No difference is larger.
  found = {}
  for name, runs in predictions.items():
    verdict: str = ''
    difference, detectable = None, None
    if name != baseline and baseline not in examples:
      verdict = statistics.Verdict.TOO_FEW
    elif name != baseline:
      estimate = statistics.difference(
        examples[name], examples[baseline], seeds=seeds, comparisons=comparisons
      )
      verdict = statistics.verdict(estimate, lower_is_better=not task.higher_is_better)
      if estimate.seeds >= statistics.FEWEST_SEEDS:
        difference = estimate._replace(low=max(estimate.low, -most), high=min(estimate.high, most))
        least = statistics.detectable(estimate.standard_error, estimate.df, comparisons)
        detectable = least if least < most else None
    further = [task.further(run) for run in runs.values()]
    arrays = [task.summary(run, class_names)[1] for run in runs.values()]
    found[name] = Performance(
      seeds=len(runs),
      best=Mean(float(examples[name].mean()), _spread(examples[name].mean(1))),
      further={score: _mean([run[score] for run in further]) for score in further[0]},
      difference=difference,
      verdict=verdict,
      detectable=detectable,
      arrays={kind: np.stack([run[kind] for run in arrays]) for kind in arrays[0]},
    )
  return found


def _mean(values: Sequence[float]) -> Mean:
  return Mean(float(np.mean(values)), _spread(values))


def _spread(values: Sequence[float] | np.ndarray) -> float | None:
  return float(np.std(values, ddof=1)) if len(values) > 1 else None
