"""Scores a network on a split, every example exactly once."""

import jax
import numpy as np

from attn_flax.tasks.classification import mean_scores
from attn_flax.training.experiment import Experiment
from attn_flax.training.steps import TrainState, Variables, make_eval_step


class Scorer:
  """Scores weights of a experiment's network on one split; the program is compiled once."""

  def __init__(self, experiment: Experiment, split: str):
    """`split` is one of the dataset's."""
    self._split = split
    self._pipeline = pipeline = experiment.eval_pipeline(split)
    eval_step = make_eval_step(experiment.model)

    def step(variables, constants, inputs):
      batch = pipeline.eval_batch(constants, inputs)
      return *eval_step(variables, batch), batch['label']

    self._step = jax.jit(step, out_shardings=experiment.replicated)

  def score(self, variables: Variables) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scores weights on every example once.

    Returns:
      `loss`, `top1`, `top5` in 0..1 and `count`; the predictions: `logits` [count, K] and `labels`
      [count], in the split's order.

    Raises:
      RuntimeError: when an example was missed or seen twice.
    """
    parts = [
      self._step(variables, self._pipeline.constants, inputs)
      for inputs in self._pipeline.eval_batches()
    ]
    sums, logits, labels = zip(*jax.device_get(parts), strict=True)
    scores = mean_scores(sums)
    count = self._pipeline.num_examples
    if scores['count'] != count:
      raise RuntimeError(f'scored {scores["count"]} examples of a split of {count}')
    return scores, {
      'logits': np.concatenate(logits)[:count],
      'labels': np.concatenate(labels)[:count],
    }

  def score_state(
    self, state: TrainState, prefix: str
  ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scores a state's raw weights (`<prefix>_top1`, ...) and its average (`<prefix>_ema_top1`).

    Returns:
      The scores, and the predictions: `logits` and `ema_logits` [count, K], `labels` [count].
    """
    weights = {'': {'params': state.params, 'batch_stats': state.batch_stats}}
    if state.ema is not None:
      weights['ema_'] = state.ema
    scores: dict[str, float] = {}
    predictions: dict[str, np.ndarray] = {}
    for name, variables in weights.items():
      found, outputs = self.score(variables)
      predictions[f'{name}logits'], predictions['labels'] = outputs['logits'], outputs['labels']
      scores.update({f'{prefix}_{name}{key}': value for key, value in found.items()})
    scores.pop(f'{prefix}_ema_count', None)
    return scores, predictions
