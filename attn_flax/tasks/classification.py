"""Classification of images: one label each."""

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from attn_flax.errors import check_range
from attn_flax.tasks.task import (
  Batch,
  Classes,
  Outputs,
  Predictions,
  Setting,
  Sums,
  Task,
  distinct,
)

# With more classes there is no confusion matrix: that of 21,841 classes would take 3.8 GB.
MOST_CONFUSED = 1000
# With at most this many classes, every class is among the top five: there is no top-5 accuracy.
_ALL_IN_TOP5 = 5


def make(setting: Setting | None = None) -> Task:
  """The task with the loss that `setting.options` asks for; None: the default loss."""
  if setting is None:
    return classification()
  options, weights = setting.options, None
  if options.class_weights:
    weights = class_weights(setting.labels(), len(setting.class_names))
  return classification(options.label_smoothing, weights)


def classification(label_smoothing: float = 0.0, weights: np.ndarray | None = None) -> Task:
  """The task of a classifier, whose outputs are logits [N, K] float32.

  Its batches hold `label`, [N] int32 or, where images are mixed, [N, K] probabilities.

  Args:
    label_smoothing: share of the target that is spread over all classes, at least 0 and below 1.
    weights: [K], weights of the classes in the loss; None: 1.

  Raises:
    UserError: the label smoothing is out of range.
  """
  check_range('train.label_smoothing', label_smoothing, 0, below=1)
  of_classes = None if weights is None else jnp.asarray(weights, jnp.float32)

  def loss(outputs: Outputs, batch: Batch) -> jax.Array:
    return cross_entropy(outputs, batch['label'], label_smoothing, of_classes).mean()

  return Task(
    name='classification',
    loss=loss,
    sums=_sums,
    scores=mean_scores,
    best='top1',
    higher_is_better=True,
    logged=('top1', 'top5'),
    predictions=lambda outputs, batch: {'logits': outputs, 'labels': batch['label']},
    targets=('labels',),
    examples=lambda predictions: hits(predictions['logits'], predictions['labels']),
    further=_further,
    summary=_summary,
    best_range=(0.0, 1.0),
    classes=Classes(
      probabilities=jax.nn.softmax,
      outputs=lambda predictions: predictions['logits'],
      right=lambda predictions: hits(predictions['logits'], predictions['labels']) == 1,
    ),
  )


def _sums(outputs: Outputs, batch: Batch) -> Sums:
  return score_sums(outputs, batch['label'], batch.get('mask', jnp.ones(len(outputs))))


def _further(predictions: Predictions) -> dict[str, float]:
  logits, labels = predictions['logits'], predictions['labels']
  has_top5 = logits.shape[1] > _ALL_IN_TOP5
  top5 = {'top5': float(hits(logits, labels, 5).mean())} if has_top5 else {}
  probabilities = special.softmax(logits, axis=1)
  return top5 | {'calibration_error': expected_calibration_error(probabilities, labels)}


def _summary(
  predictions: Predictions, class_names: Sequence[str]
) -> tuple[dict[str, object], dict[str, np.ndarray]]:
  logits, labels = predictions['logits'], predictions['labels']
  num_classes = logits.shape[-1]
  of_class = class_counts(labels, num_classes)
  right = class_counts(labels[logits.argmax(-1) == labels], num_classes)
  per_class = {
    name: int(hit) / int(count) if count else None  # A class without images has no accuracy.
    for name, hit, count in zip(distinct(class_names), right, of_class, strict=True)
  }
  if num_classes > MOST_CONFUSED:
    return {'per_class': per_class}, {'class_images': of_class, 'class_right': right}
  return {'per_class': per_class}, {'confusion': confusion(logits, labels)}


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
    class_weights: [K], weights of the classes; None: 1.

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
  """The confusion matrix: how often each class (row) was predicted as each (column), [K, K] counts.

  Args:
    logits: [N, K].
    labels: [N] integers.
  """
  num_classes = logits.shape[-1]
  pairs = labels.astype(np.int64) * num_classes + logits.argmax(-1)
  return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def hits(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
  """Whether each example's label is among the k classes of the largest logits: [N] of 1.0 or 0.0.

  As in `score_sums`, ties count against the label.

  Args:
    logits: [N, K].
    labels: [N] integers.
    k: number of classes that count, 1 for top-1.
  """
  own = np.take_along_axis(logits, labels[:, None].astype(int), axis=1)
  return ((~(logits < own)).sum(1) <= k).astype(float)


def expected_calibration_error(
  probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> float:
  """The |confidence - accuracy| of bins of images, averaged over images: 0 is best, 1 worst.

  Images are put into bins of equal width by their largest probability, lower edge excluded. Guo
  et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599.

  Args:
    probabilities: [n, K], rows that sum to 1.
    labels: [n] integers.
    bins: number of bins; with few images the error grows with it.
  """
  confidence = probabilities.max(1).astype(np.float64)
  gap = (probabilities.argmax(1) == labels) - confidence
  place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
  return float(np.abs(np.bincount(place, gap, minlength=bins)).sum() / len(labels))


def score_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
  """Sums of the loss and of top-1 and top-5 hits over the examples whose mask is 1.

  An example is a top-k hit if fewer than k other classes have a logit at least as large as that of
  its label.

  Args:
    logits: [N, K] float32.
    labels: [N] int32, or [N, K] probabilities, whose largest marks the right class.
    mask: [N], 1 for examples and 0 for padding.

  Returns:
    `loss`, `top1`, `top5` where there are more than five classes, and `count`, each a float32
    scalar.
  """
  classes = labels.argmax(-1) if labels.ndim == 2 else labels
  own = jnp.take_along_axis(logits, classes[:, None], axis=-1)
  # Ties and NaN count as misses, so that a constant or broken output does not score as perfect.
  ahead = (~(logits < own)).sum(-1) - 1
  top5 = {'top5': ((ahead < 5) * mask).sum()} if logits.shape[-1] > _ALL_IN_TOP5 else {}
  return {
    'loss': (cross_entropy(logits, labels) * mask).sum(),
    'top1': ((ahead < 1) * mask).sum(),
    **top5,
    'count': mask.sum(),
  }


def mean_scores(sums: Iterable[Mapping[str, float]]) -> dict[str, float]:
  """Adds up sums of batches and divides by `count`: means per example by name, and `count`."""
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

  The weight of a class is N / (K' * count) for K' classes that occur, so that the mean weight of
  the examples is 1 and the loss keeps its scale.

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
