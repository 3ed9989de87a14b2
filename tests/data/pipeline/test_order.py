"""Order of the examples, balanced or not."""

import numpy as np
import pytest

from attn_flax.data.pipeline.order import Order
from attn_flax.errors import UserError

LABELS = np.repeat([0, 1, 2, 4], [70, 20, 7, 3])  # No example of class 3.


def test_an_epoch_visits_every_example_once():
  order = Order(3, 50)
  epochs = [order.epoch(epoch) for epoch in range(4)]
  assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize('labels', [None, LABELS])
def test_the_order_is_a_function_of_seed_and_epoch(labels):
  first, other = Order(3, 100, labels), Order(4, 100, labels)
  later = first.epoch(2).copy()
  for epoch in (0, 2, 1, 0):
    np.testing.assert_array_equal(first.epoch(epoch), Order(3, 100, labels).epoch(epoch))
  np.testing.assert_array_equal(first.epoch(2), later)
  assert (first.epoch(0) != other.epoch(0)).any() and (first.epoch(0) != first.epoch(1)).any()


def test_batches_are_slices_of_epochs():
  order = Order(0, 23)
  np.testing.assert_array_equal(order.batch(0, 5), order.epoch(0)[:5])
  np.testing.assert_array_equal(order.batch(3, 5), order.epoch(0)[15:20])
  np.testing.assert_array_equal(order.batch(9, 5), order.epoch(2)[5:10])
  with pytest.raises(UserError, match='24 exceeds the 23.*choose 23'):
    order.batch(0, 24)
  with pytest.raises(UserError, match='2 exceeds the 1 training example: choose 1 at most'):
    Order(0, 1).batch(0, 2)


def test_a_balanced_epoch_draws_every_class_alike():
  order = Order(0, 100, LABELS)
  seen = np.zeros(100, int)
  for epoch in range(8):
    index = order.epoch(epoch)
    counts = np.bincount(index, minlength=100)
    assert len(index) == 100
    np.testing.assert_array_equal(np.bincount(LABELS[index]), [25, 25, 25, 0, 25])
    for label in np.unique(LABELS):  # Examples of a class are drawn equally often, too.
      own = counts[LABELS == label]
      assert own.max() - own.min() <= 1
    seen += counts
  assert (seen > 0).mean() > 0.9  # Each epoch leaves out other examples of frequent classes.
  assert len(set(LABELS[index[:25]])) == 4  # The classes are shuffled.


def test_balanced_classes_that_do_not_divide_the_epoch():
  labels = np.array([2, 0, 0, 0, 0, 0, 1, 0])
  extra = np.zeros(3, int)
  for epoch in range(60):
    counts = np.bincount(labels[Order(1, 8, labels).epoch(epoch)], minlength=3)
    assert sorted(counts) == [2, 3, 3]
    extra += counts == 3
  assert extra.min() > 20  # No class is favored.
