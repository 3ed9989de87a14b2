"""A task: what a network learns and how it is judged, as one record of pure functions.

The training loop, the scoring of splits, the checkpoints, the studies and the report know a task by
this record alone. To add a task, write a file beside `classification.py` and name it in `names.py`.
"""

import collections
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

# What a network returns, a pytree of arrays; of a classifier it is one, logits [N, K].
Outputs = Any
# What a pipeline makes for a step: `image` [N, H, W, C] float32, the targets, and in evaluation
# `mask` [N], 1 for examples and 0 for padding.
Batch = Mapping[str, jax.Array]
# Sums over examples by name, `count` among them.
Sums = dict[str, jax.Array]
# What is stored of each example of a split, [N, ...] by name.
Predictions = Mapping[str, np.ndarray]


class Classes(NamedTuple):
  """How a task's network says which one of K classes an image shows.

  Attributes:
    probabilities: outputs -> the probability of each class, [N, K].
    outputs: predictions of a split -> the outputs that they were made from, [n, K].
    right: predictions of a split -> whether each example's likeliest class is its own, [n] bool.
  """

  probabilities: Callable[[Outputs], jax.Array]
  outputs: Callable[[Predictions], np.ndarray]
  right: Callable[[Predictions], np.ndarray]


def distinct(names: Sequence[str]) -> list[str]:
  """Names of classes, with the class's number where several share a name, as ImageNet's 'crane'."""
  counts = collections.Counter(names)
  return [f'{name} ({i})' if counts[name] > 1 else name for i, name in enumerate(names)]


class Task(NamedTuple):
  """What a network learns and how it is judged.

  Attributes:
    name: what the task is called, a key of `names.TASKS`.
    loss: (outputs, batch) -> the mean loss of a training batch, a float32 scalar.
    sums: (outputs, batch) -> sums over the examples that the batch's mask holds, or over all where
      it has none.
    scores: sums of several batches -> scores of all their examples, divided once, and `count`.
    best: the score that decides which checkpoint of a run is the best.
    higher_is_better: the direction of that score.
    logged: the names whose means each training step reports beside the loss, of those that `sums`
      has.
    predictions: (outputs, batch) -> what is stored of each example, [N, ...] by name.
    targets: the names among `predictions` that do not depend on the network.
    examples: predictions of a split -> what each example adds to the mean `best`, [n] float.
    further: predictions of a split -> scores of a whole run beside `best` that a report shows.
    summary: (predictions, class names) -> what a result holds beside the scores, and further arrays
      that are stored with the predictions.
    pages: which pages of a report show the task.
    best_range: the smallest and the largest value that `best` can have.
    classes: how outputs name a class; None where they do not: there is then no class whose
      probability is predicted, nor one that a map could explain.
  """

  name: str
  loss: Callable[[Outputs, Batch], jax.Array]
  sums: Callable[[Outputs, Batch], Sums]
  scores: Callable[[Iterable[Mapping[str, float]]], dict[str, float]]
  best: str
  higher_is_better: bool
  logged: tuple[str, ...]
  predictions: Callable[[Outputs, Batch], dict[str, jax.Array]]
  targets: tuple[str, ...]
  examples: Callable[[Predictions], np.ndarray]
  further: Callable[[Predictions], dict[str, float]]
  summary: Callable[[Predictions, Sequence[str]], tuple[dict[str, object], dict[str, np.ndarray]]]
  pages: str
  best_range: tuple[float, float] = (-math.inf, math.inf)
  classes: Classes | None = None


class Setting(NamedTuple):
  """What a task may be made from.

  Attributes:
    options: what a config says about training, `config.train`.
    class_names: of the dataset.
    labels: () -> the labels of the training split, [N] integers; it may have to read all of it.
  """

  options: Mapping[str, Any]
  class_names: Sequence[str]
  labels: Callable[[], np.ndarray]
