"""Losses and scores of classifiers, as sums over examples that are divided once, at the end."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from attn_flax.tasks.task import Predictions, Task

# Sums over examples: `loss`, `top1`, `top5` and `count`.
Sums = dict[str, jax.Array]


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  smoothing: float = 0.0,
  class_weights: jax.Array | None = None,
) -> jax.Array:
  """Cross-entropy of each example in nats.

  Args:
    logits: [N, K] float32.
    labels: [N] int32, or [N, K] probabilities.
    smoothing: share of the target spread over all K classes.
    class_weights: [K], how much each class counts; None: 1.

  Returns:
    [N] float32.
  """
  targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, logits.shape[-1])
  if smoothing:
    targets = optax.smooth_labels(targets, smoothing)
  if class_weights is not None:
    targets = targets * class_weights
  return optax.softmax_cross_entropy(logits, targets)


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """How often each class [rows] was taken for each [columns]: counts [K, K].

  Args:
    logits: [N, K].
    labels: [N] integers.
  """
  num_classes = logits.shape[-1]
  pairs = labels * num_classes + logits.argmax(-1)
  return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def score_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
  """Sums of loss, top-1 and top-5 hits over the examples that the mask holds.

  An example is a top-k hit when fewer than k other classes have as large a logit; with five
  classes or fewer top-5 is always hit.

  Args:
    logits: [N, K] float32.
    labels: [N] int32, or [N, K] probabilities, of which the largest tells the class to be hit.
    mask: [N], 1 for examples and 0 for padding.

  Returns:
    `loss`, `top1`, `top5`, `count`, each a float32 scalar.
  """
  classes = labels.argmax(-1) if labels.ndim == 2 else labels
  own = jnp.take_along_axis(logits, classes[:, None], axis=-1)
  # Ties and NaN count against the example, so that a constant or broken output is not perfect.
  ahead = (~(logits < own)).sum(-1) - 1
  return {
    'loss': (cross_entropy(logits, labels) * mask).sum(),
    'top1': ((ahead < 1) * mask).sum(),
    'top5': ((ahead < 5) * mask).sum(),
    'count': mask.sum(),
  }


def mean_scores(sums: Iterable[Mapping[str, float]]) -> dict[str, float]:
  """Adds sums up and divides once: `loss` per example, `top1` and `top5` in 0..1, `count`."""
  total: dict[str, float] = {}
  for part in sums:
    for name, value in part.items():
      total[name] = total.get(name, 0.0) + float(value)
  count = total.pop('count')
  return {**{name: value / count for name, value in total.items()}, 'count': round(count)}


def class_counts(labels: np.ndarray, num_classes: int | None = None) -> np.ndarray:
  """Number of examples of each class, [K] integers.

  Args:
    labels: [N] integers.
    num_classes: K; None: the largest label + 1.
  """
  return np.bincount(labels, minlength=num_classes or 0)


def class_weights(labels: np.ndarray, num_classes: int | None = None) -> np.ndarray:
  """Weights of the classes in the loss, in inverse proportion to their frequency.

  Their mean over the examples is 1, so that they leave the size of the loss as it is: with
  K' classes that occur, N / (K' * count).

  Args:
    labels: [N] integers.
    num_classes: K; None: the largest label + 1.

  Returns:
    [K] float32; 0 for a class without examples.
  """
  counts = class_counts(labels, num_classes)
  occurring = max(np.count_nonzero(counts), 1)
  weights = len(labels) / (occurring * np.maximum(counts, 1))
  return np.where(counts > 0, weights, 0).astype(np.float32)


def expected_calibration_error(
  probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> float:
  """How far confidence and accuracy lie apart, on average over the images: 0 is best, 1 worst.

  Images are put into bins of equal width by their largest probability, lower edge excluded. Guo
  et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599.

  Args:
    probabilities: [n, K], rows that sum to 1.
    labels: [n] integers.
    bins: number of bins; the error grows with it where images are few.
  """
  confidence = probabilities.max(1).astype(np.float64)
  gap = (probabilities.argmax(1) == labels) - confidence
  place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
  return float(np.abs(np.bincount(place, gap, minlength=bins)).sum() / len(labels))


def hits(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
  """Which examples [n] have their label among the k likeliest classes: 1.0 or 0.0.

  As in `score_sums`, ties count against the label.
  """
  own = np.take_along_axis(logits, labels[:, None].astype(int), axis=1)
  return ((~(logits < own)).sum(1) <= k).astype(float)


def _examples(predictions: Predictions) -> np.ndarray:
  return hits(predictions['logits'], predictions['labels'])


def _further(predictions: Predictions) -> dict[str, float]:
  logits, labels = predictions['logits'], predictions['labels']
  scores = {}
  if logits.shape[1] > 5:
    scores['top5'] = float(hits(logits, labels, 5).mean())
  probabilities = special.softmax(logits, axis=1)
  scores['calibration_error'] = expected_calibration_error(probabilities, labels)
  return scores


def _summary(predictions, class_names):
  del class_names
  return {}, {'confusion': confusion(predictions['logits'], predictions['labels'])}


def classification() -> Task:
  """One of several classes for each image."""
  return Task(
    name='classification',
    loss=None,
    sums=None,
    scores=None,
    best='top1',
    higher_is_better=True,
    logged=('loss', 'top1'),
    predictions=None,
    examples=_examples,
    further=_further,
    summary=_summary,
    pages='classification',
  )
