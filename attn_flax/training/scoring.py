"""Scores a network on a split; every example counts exactly once."""

import contextlib
from collections.abc import Callable

import jax
import numpy as np

from attn_flax.data.pipeline.protocol import Arrays
from attn_flax.layers.types import Variables
from attn_flax.tasks.task import Sums
from attn_flax.training.artifacts import AVERAGED, score_name
from attn_flax.training.experiment import Experiment
from attn_flax.training.steps import TrainState, make_eval_step

_IN_FLIGHT = 4  # Batches queued on the device at most, so that a stop does not wait for all.


class Interrupted(Exception):  # noqa: N818
  """Scoring a split was interrupted before its end."""


class Scorer:
  """Scores weights of an experiment's network on one split; its program is compiled once."""

  def __init__(self, experiment: Experiment, split: str):
    """Opens the batches of a split: 'train', 'validation' or 'test'."""
    self._task = experiment.task
    self._pipeline = pipeline = experiment.eval_pipeline(split)
    eval_step = make_eval_step(experiment.model, experiment.task)

    def step(
      variables: Variables, constants: Arrays, inputs: Arrays
    ) -> tuple[Sums, dict[str, jax.Array]]:
      return eval_step(variables, pipeline.eval_batch(constants, inputs))

    self._step = jax.jit(step, out_shardings=experiment.replicated)

  def score(
    self, variables: Variables, until: Callable[[], bool] = lambda: False
  ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scores weights on every example of the split.

    Args:
      variables: the weights.
      until: called before each batch; scoring is interrupted once it returns True.

    Returns:
      The scores of the task and `count`, by name; and its predictions, [count, ...] by name, in the
      order of the split.

    Raises:
      Interrupted: once `until` has returned True.
      RuntimeError: where an example was missed or counted twice.
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
      raise RuntimeError(f'{scores["count"]} examples were scored in a split of {count}')
    # A compiled function sorts names; here those of the targets come after those of the outputs.
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
      prefix: the beginning of the scores' names, such as 'val'.
      until: see `score`.

    Returns:
      The scores, named `<prefix>_<score>` and `<prefix>_ema_<score>`; and the predictions, where
      those of the average are named `ema_<name>`.

    Raises:
      Interrupted: see `score`.
      RuntimeError: see `score`.
    """
    weights: dict[str, Variables] = {'': {'params': state.params, 'batch_stats': state.batch_stats}}
    if state.ema is not None:
      weights[AVERAGED] = state.ema
    scores: dict[str, float] = {}
    predictions: dict[str, np.ndarray] = {}
    for kind, variables in weights.items():
      found, made = self.score(variables, until)
      scores.update({score_name(prefix, kind + name): value for name, value in found.items()})
      predictions.update(
        {name if name in self._task.targets else f'{kind}{name}': a for name, a in made.items()}
      )
    scores.pop(score_name(prefix, 'count', averaged=True), None)
    return scores, predictions
