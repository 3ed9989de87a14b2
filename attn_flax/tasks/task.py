"""A task: what a network learns and how it is judged, as one record of pure functions.

The training loop, the scoring of splits, the checkpoints, the studies and the report know a task
only by this record. To add a task, write a file like `classification.py` and list it in `names.py`.
"""

import collections
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

# What a network returns, a pytree of arrays; a classifier returns one array, the logits [N, K].
Outputs = Any
# What a pipeline makes for a step: `image` [N, H, W, C] float32, the targets, and in evaluation
# `mask` [N], 1 for examples and 0 for padding.
Batch = Mapping[str, jax.Array]
# Sums over examples by name, including their number, `count`.
Sums = dict[str, jax.Array]
# What is stored for each example of a split, [n, ...] by name.
Predictions = Mapping[str, np.ndarray]


class Classes(NamedTuple):
  """How a task's network says which one of K classes an image shows.

  Attributes:
    probabilities: outputs -> the probability of each class, [N, K].
    outputs: predictions of a split -> the outputs that they were made from, [n, K].
    right: predictions of a split -> whether each example's most probable class is its label, [n]
      bool.
  """

  probabilities: Callable[[Outputs], jax.Array]
  outputs: Callable[[Predictions], np.ndarray]
  right: Callable[[Predictions], np.ndarray]


def distinct(names: Sequence[str]) -> list[str]:
  """Distinct names of classes: a name that several share, as ImageNet's 'crane', gets a number."""
  counts = collections.Counter(names)
  return [f'{name} ({i})' if counts[name] > 1 else name for i, name in enumerate(names)]


class Task(NamedTuple):
  """What a network learns and how it is judged.

  Attributes:
    name: the name of the task, a key of `names.TASKS`.
    loss: (outputs, batch) -> the mean loss of a training batch, a float32 scalar.
    sums: (outputs, batch) -> sums over the examples whose mask is 1, or over all examples of a
      batch without a mask.
    scores: sums of several batches -> means over all their examples, and `count`.
    best: the score that decides which checkpoint of a run is the best.
    higher_is_better: whether a higher value of that score is better.
    logged: names among `sums` whose means each training step reports, in addition to the loss.
    predictions: (outputs, batch) -> what is stored for each example, [N, ...] by name.
    targets: the names among `predictions` that do not depend on the network.
    examples: predictions of a split -> the score `best` of each example, whose mean is that of the
      split, [n] float.
    further: predictions of a split -> scores that a report shows in addition to `best`.
    summary: (predictions, class names) -> what a result holds in addition to the scores, and
      further arrays that are stored with the predictions.
    best_range: the smallest and the largest value that `best` can have.
    classes: how outputs become classes; None for a task without classes, for which commands neither
      print class probabilities nor explain a class.
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
  best_range: tuple[float, float] = (-math.inf, math.inf)
  classes: Classes | None = None


class LossOptions(Protocol):
  """The fields of `config.train` that losses depend on."""

  label_smoothing: float
  class_weights: bool


class Setting(NamedTuple):
  """The config and dataset that a task is made for.

  Attributes:
    options: `config.train`.
    class_names: the names of the dataset's classes.
    labels: () -> the labels of the training split, [N] integers; this may read the whole split.
  """

  options: LossOptions
  class_names: Sequence[str]
  labels: Callable[[], np.ndarray]
