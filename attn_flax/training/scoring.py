"""Scores a network on a split, every example exactly once."""

import contextlib
from collections.abc import Callable

import jax
import numpy as np

from attn_flax.layers.types import Variables
from attn_flax.training.experiment import Experiment
from attn_flax.training.steps import TrainState, make_eval_step

_IN_FLIGHT = 4  # Batches that the device may have before it, so that a stop need not wait for all.


class Interrupted(Exception):  # noqa: N818
  """A split was not scored to its end."""


class Scorer:
  """Scores weights of an experiment's network on one split; the program is compiled once."""

  def __init__(self, experiment: Experiment, split: str):
    """`split` is one of the dataset's."""
    self._task = experiment.task
    self._pipeline = pipeline = experiment.eval_pipeline(split)
    eval_step = make_eval_step(experiment.model, experiment.task)

    def step(variables, constants, inputs):
      return eval_step(variables, pipeline.eval_batch(constants, inputs))

    self._step = jax.jit(step, out_shardings=experiment.replicated)

  def score(
    self, variables: Variables, until: Callable[[], bool] = lambda: False
  ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scores weights on every example once.

    Args:
      variables: the weights.
      until: asked before each batch; where it holds, the rest is left out.

    Returns:
      The scores of the task and `count`; its predictions, [count, ...] by name, in the split's
      order.

    Raises:
      Interrupted: when `until` held.
      RuntimeError: when an example was missed or seen twice.
    """
    parts = []
    with contextlib.closing(self._pipeline.eval_batches()) as batches:
      for inputs in batches:
        if until():
          raise Interrupted
        parts.append(self._step(variables, self._pipeline.constants, inputs))
        jax.block_until_ready(parts[-_IN_FLIGHT:][0])
    sums, predictions = zip(*jax.device_get(parts), strict=True)
    scores = self._task.scores(sums)
    count = self._pipeline.num_examples
    if scores['count'] != count:
      raise RuntimeError(f'scored {scores["count"]} examples of a split of {count}')
    # A compiled function sorts its names; in what is stored, the targets follow the network's own.
    names = sorted(predictions[0], key=lambda name: name in self._task.targets)
    return scores, {
      name: np.concatenate([part[name] for part in predictions])[:count] for name in names
    }

  def score_state(
    self, state: TrainState, prefix: str, until: Callable[[], bool] = lambda: False
  ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scores a state's raw weights and, where it has one, their moving average.

    Args:
      state: the state.
      prefix: how the scores' names begin.
      until: see `score`.

    Returns:
      The scores, called `<prefix>_<score>` and `<prefix>_ema_<score>`; the predictions, those of
      the average called `ema_<name>`.

    Raises:
      Interrupted: when `until` held.
    """
    weights: dict[str, Variables] = {'': {'params': state.params, 'batch_stats': state.batch_stats}}
    if state.ema is not None:
      weights['ema_'] = state.ema
    scores: dict[str, float] = {}
    predictions: dict[str, np.ndarray] = {}
    for kind, variables in weights.items():
      found, made = self.score(variables, until)
      scores.update({f'{prefix}_{kind}{name}': value for name, value in found.items()})
      predictions.update(
        {name if name in self._task.targets else f'{kind}{name}': a for name, a in made.items()}
      )
    scores.pop(f'{prefix}_ema_count', None)
    return scores, predictions
