"""The metrics of updates that the device may not have finished."""

import jax
import numpy as np
import pytest

from attn_flax.training import window
from attn_flax.training.window import Window


class Arriving:
  """A metric that is ready once it has been waited for."""

  def __init__(self):
    self.waited = False

  def is_ready(self):
    return self.waited


@pytest.fixture
def metrics(monkeypatch):
  """A function that makes metrics which the device has not finished."""

  def wait(tree):
    for metric in jax.tree.leaves(tree):
      metric.waited = True

  monkeypatch.setattr(jax, 'block_until_ready', wait)
  return lambda: {'loss': Arriving()}


def test_what_the_device_has_not_finished_waits(metrics):
  """A limited number of parts, as `waiting` says; the oldest part is waited for first."""
  found = Window()
  parts = [metrics() for _ in range(window._MOST_WAITING + 3)]
  for i, part in enumerate(parts):
    found.add(part)
    assert found.waiting() == min(i + 1, window._MOST_WAITING)
  assert [part['loss'].waited for part in parts[:4]] == [True, True, True, False]
  assert list(found.finish()) == list(range(window._MOST_WAITING - 1, -1, -1))
  assert all(part['loss'].waited for part in parts) and found.waiting() == 0


def test_metrics_of_the_device_are_read_in_order():
  found = Window()
  for i in range(20):
    found.add({'loss': jax.numpy.float32(i)})
  list(found.finish())
  assert found.waiting() == 0
  assert [part['loss'] for part in found.read()] == list(map(np.float32, range(20)))
