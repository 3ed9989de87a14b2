"""The calibration error of classifiers."""

import numpy as np
import pytest

from attn_flax.tasks import classification


def test_calibration_error_by_loops():
  rng = np.random.default_rng(11)
  probabilities = rng.dirichlet(np.full(4, 0.4), 500)
  labels = rng.integers(0, 4, 500)
  expected = 0.0
  for index in range(15):
    held = [row for row in range(500) if index / 15 < probabilities[row].max() <= (index + 1) / 15]
    if held:
      hits = np.mean([probabilities[row].argmax() == labels[row] for row in held])
      expected += len(held) / 500 * abs(hits - np.mean([probabilities[row].max() for row in held]))
  actual = classification.expected_calibration_error(probabilities, labels)
  assert actual == pytest.approx(expected) and actual > 0.1


def test_calibration_error_of_certain_answers():
  """0 if all are right, 0.5 if half of them are."""
  one_hot = np.eye(3)[[0, 1, 2, 0]]
  assert classification.expected_calibration_error(one_hot, np.array([0, 1, 2, 0])) == 0
  assert classification.expected_calibration_error(one_hot, np.array([0, 1, 1, 1])) == 0.5
