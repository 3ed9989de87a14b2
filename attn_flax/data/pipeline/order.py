"""The order of training examples, a pure function of (seed, step), on request balanced by class."""

import numpy as np

from attn_flax.errors import MOST_SEED, UserError, check_counts, check_range, shown


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Number of whole batches in an epoch; the examples that are left over differ by epoch.

  Raises:
    UserError: the split is smaller than one batch.
  """
  check_counts(MOST_SEED, batch_size=batch_size)
  if batch_size > num_examples:
    raise UserError(
      f'a batch of {batch_size} exceeds the {num_examples} training '
      f'example{"" if num_examples == 1 else "s"}: choose {num_examples} at most'
    )
  return num_examples // batch_size


class Order:
  """The order of the examples, epoch by epoch.

  By default an epoch visits every example once. A balanced epoch draws as many examples in total,
  and equally many of every class: examples of rare classes are repeated, and frequent classes are
  subsampled anew in each epoch.
  """

  def __init__(self, seed: int, num_examples: int, balanced_labels: np.ndarray | None = None):
    """Keeps the arguments.

    Args:
      seed: 0 or more.
      num_examples: n, number of examples.
      balanced_labels: [n] integers, the labels by which epochs are balanced; None: every epoch
        visits every example once.

    Raises:
      UserError: a number is out of range, or there is not one label for each example.
    """
    check_seed(seed)
    check_range('num_examples', num_examples, 0, MOST_SEED, whole=True)
    labels = None if balanced_labels is None else np.asarray(balanced_labels)
    if labels is not None and labels.shape != (num_examples,):
      raise UserError(
        f'balanced_labels={shown(balanced_labels)} do not fit {num_examples} examples; give an '
        'array of one label for each'
      )
    self._seed = seed
    self._num_examples = num_examples
    self._labels = labels
    self._latest: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

  def epoch(self, epoch: int) -> np.ndarray:
    """Indices [n] of one epoch; a pure function of its number, 0 or more."""
    check_range('epoch', epoch, 0, MOST_SEED, whole=True)
    latest, order = self._latest  # Read as one: several threads may ask at once.
    if latest != epoch:
      rng = np.random.default_rng([self._seed, epoch])
      if self._labels is None:
        order = rng.permutation(self._num_examples)
      else:
        order = _balanced(rng, self._labels)
      self._latest = epoch, order
    return order

  def batch(self, step: int, batch_size: int) -> np.ndarray:
    """Indices [batch_size] of the batch of one step.

    Raises:
      UserError: there are fewer than `batch_size` examples.
    """
    check_range('step', step, 0, MOST_SEED, whole=True)
    epoch, position = divmod(step, steps_per_epoch(self._num_examples, batch_size))
    return self.epoch(epoch)[position * batch_size : (position + 1) * batch_size]


def check_seed(seed: object) -> None:
  """Raises `UserError` unless `seed` can be the seed of an order."""
  check_range('seed', seed, 0, MOST_SEED, whole=True)


def check_start(start_step: object) -> None:
  """Raises `UserError` unless `start_step` is a step to start at."""
  check_range('start_step', start_step, 0, MOST_SEED, whole=True)


def _balanced(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
  """As many indices as there are labels, equally many of each label that occurs (or one more)."""
  by_label = np.argsort(labels, kind='stable')
  classes = np.split(by_label, np.flatnonzero(np.diff(labels[by_label])) + 1)
  share, rest = divmod(len(labels), len(classes))
  has_more = rng.permutation(len(classes)) < rest
  drawn = []
  for members, more in zip(classes, has_more, strict=True):
    wanted = share + int(more)
    rounds = [rng.permutation(members) for _ in range(-(-wanted // len(members)))]
    drawn.append(np.concatenate(rounds)[:wanted])
  return rng.permutation(np.concatenate(drawn))
