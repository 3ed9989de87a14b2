"""Losses and scores against NumPy in double precision."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from attn_flax.tasks import classification
from attn_flax.tasks.classification import cross_entropy, mean_scores, score_sums


def log_softmax(logits):
  shifted = logits - logits.max(1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


@pytest.fixture
def batch():
  """Logits [7, 9] and labels [7]."""
  rng = np.random.default_rng(0)
  return rng.normal(size=(7, 9)).astype(np.float32) * 3, rng.integers(0, 9, 7).astype(np.int32)


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 1.0])
def test_cross_entropy_of_smoothed_labels(batch, smoothing):
  """The target is 1 - smoothing + smoothing / K at the label, and smoothing / K elsewhere."""
  logits, labels = batch
  expected = []
  for row, label in zip(log_softmax(logits.astype(np.float64)), labels, strict=True):
    targets = np.full(9, smoothing / 9)
    targets[label] += 1 - smoothing
    expected.append(-(targets * row).sum())
  actual = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
  assert actual.shape == (7,) and actual.dtype == jnp.float32
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_cross_entropy_of_probabilities(batch, smoothing):
  """Mixed labels [N, K], as mixup makes them; one-hot labels give the loss of integer labels."""
  logits, labels = batch
  one_hot = np.eye(9, dtype=np.float32)[labels]
  np.testing.assert_array_equal(
    cross_entropy(logits, jnp.asarray(one_hot), smoothing),
    cross_entropy(logits, jnp.asarray(labels), smoothing),
  )
  mixed = 0.7 * one_hot + 0.3 * one_hot[::-1]
  targets = (1 - smoothing) * mixed + smoothing / 9
  expected = -(targets * log_softmax(logits.astype(np.float64))).sum(1)
  actual = cross_entropy(logits, jnp.asarray(mixed), smoothing)
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_classes_weigh_the_inverse_of_their_frequency():
  labels = np.repeat([0, 1, 2, 4], [70, 20, 7, 3])  # No example of class 3.
  np.testing.assert_array_equal(classification.class_counts(labels, 6), [70, 20, 7, 0, 3, 0])
  weights = classification.class_weights(labels, 6)
  assert weights.dtype == np.float32 and weights.shape == (6,)
  np.testing.assert_allclose(weights[labels].mean(), 1, rtol=1e-6)
  np.testing.assert_allclose(weights, [100 / 280, 100 / 80, 100 / 28, 0, 100 / 12, 0], rtol=1e-6)
  np.testing.assert_array_equal(classification.class_weights(np.arange(4).repeat(3)), np.ones(4))


def test_cross_entropy_of_large_logits_is_finite():
  logits = jnp.asarray([[1e4, 0.0], [0.0, 1e4]])
  np.testing.assert_allclose(cross_entropy(logits, jnp.asarray([0, 0])), [0, 1e4])


def test_sums_cover_the_masked_examples_alone(batch):
  """Compared with top-k by sorting, as no logits tie; the values of padding do not matter."""
  logits, labels = batch
  mask = np.array([1, 1, 0, 1, 1, 1, 0], np.float32)
  logits[mask == 0] = 1e9
  sums = score_sums(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(mask))
  order = np.argsort(-logits, axis=1)
  kept = mask == 1
  losses = -log_softmax(logits.astype(np.float64))[np.arange(7), labels]
  np.testing.assert_allclose(sums['loss'], losses[kept].sum(), rtol=1e-6)
  assert sums['count'] == 5
  for k in (1, 5):
    hits = (order[:, :k] == labels[:, None]).any(1)
    assert sums[f'top{k}'] == hits[kept].sum()
  assert 0 < sums['top5'] < 5  # So that the comparison means something.


def test_probabilities_count_hits_of_their_largest(batch):
  logits, labels = batch
  mixed = 0.6 * np.eye(9, dtype=np.float32)[labels] + 0.4 * np.eye(9, dtype=np.float32)[::-1][:7]
  soft, hard = (score_sums(logits, jnp.asarray(x), jnp.ones(7)) for x in (mixed, labels))
  assert (soft['top1'], soft['top5']) == (hard['top1'], hard['top5'])
  np.testing.assert_allclose(soft['loss'], cross_entropy(logits, jnp.asarray(mixed)).sum())


@pytest.mark.parametrize(
  ('logits', 'top1', 'top5'),
  [
    ([5, 4, 3, 2, 1, 0, -1], 1, 1),
    ([4, 5, 3, 2, 1, 0, -1], 0, 1),
    ([1, 5, 4, 3, 2, 0, -1], 0, 1),  # Fifth.
    ([0, 5, 4, 3, 2, 1, -1], 0, 0),  # Sixth.
    ([5, 5, 3, 2, 1, 0, -1], 0, 1),  # A tie for the first place is a top-1 miss.
    ([1, 5, 4, 3, 2, 1, -1], 0, 0),  # A tie for the fifth place is a top-5 miss.
    ([0, 0, 0, 0, 0, 0, 0], 0, 0),  # A constant output misses.
    ([np.nan] * 7, 0, 0),  # So does one that is not finite.
    ([np.nan, 5, 4, 3, 2, 1, 0], 0, 0),
    ([np.inf, 5, 4, 3, 2, 1, 0], 1, 1),
  ],
)
def test_ties_and_broken_logits_do_not_count_as_hits(logits, top1, top5):
  sums = score_sums(jnp.asarray([logits], jnp.float32), jnp.asarray([0]), jnp.ones(1))
  assert (sums['top1'], sums['top5']) == (top1, top5)


@pytest.mark.parametrize('num_classes', [2, 5])
def test_of_few_classes_there_is_no_top5(num_classes):
  logits = np.random.default_rng(1).normal(size=(20, num_classes)).astype(np.float32)
  labels = np.zeros(20, int)
  sums = score_sums(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(20))
  assert sums.keys() == {'loss', 'top1', 'count'} and sums['top1'] < 20
  assert mean_scores([sums]).keys() == {'loss', 'top1', 'count'}
  further = classification.make().further({'logits': logits, 'labels': labels})
  assert further.keys() == {'calibration_error'}


@pytest.mark.parametrize('num_classes', [3, 21_841])
def test_a_summary_of_thousands_of_classes_has_no_matrix(num_classes):
  """That of 21,841 classes would have 477 million entries."""
  logits = np.zeros((4, num_classes), np.float32)
  labels = np.array([0, 0, num_classes - 1, num_classes - 1], np.int32)
  logits[[0, 1, 2, 3], [0, 1, num_classes - 1, num_classes - 1]] = 1
  names = [f'class {k}' for k in range(num_classes)]
  told, arrays = classification.make().summary({'logits': logits, 'labels': labels}, names)
  assert list(told['per_class']) == names
  assert [told['per_class'][names[k]] for k in (0, 1, num_classes - 1)] == [0.5, None, 1.0]
  assert json.dumps(told)
  if num_classes == 3:
    assert arrays['confusion'].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 2]]
  else:
    assert {name: array.shape for name, array in arrays.items()} == {
      'class_images': (num_classes,),
      'class_right': (num_classes,),
    }
    assert arrays['class_images'][[0, 1, -1]].tolist() == [2, 0, 2]
    assert arrays['class_right'][[0, 1, -1]].tolist() == [1, 0, 2]


def test_classes_that_share_a_name_are_all_in_the_summary():
  predictions = {'logits': np.eye(3, dtype=np.float32), 'labels': np.array([0, 1, 1])}
  told, _ = classification.make().summary(predictions, ['crane', 'owl', 'crane'])
  assert told['per_class'] == {'crane (0)': 1.0, 'owl': 0.5, 'crane (2)': None}


def test_means_divide_once():
  """The mean over all examples, not the mean of the batches' means."""
  parts = [
    {'loss': 10.0, 'top1': 3.0, 'top5': 4.0, 'count': 4.0},
    {'loss': 1.0, 'top1': 0.0, 'top5': 1.0, 'count': 1.0},
  ]
  assert mean_scores(parts) == {'loss': 11 / 5, 'top1': 3 / 5, 'top5': 1.0, 'count': 5}
