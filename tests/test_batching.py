"""Functions over data of any size, called for one batch after the other."""

import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from attn_flax import UserError
from attn_flax.batching import in_batches


def test_batches_give_the_result_of_one_call_and_are_traced_once():
  rng = np.random.default_rng(0)
  x, labels = rng.normal(size=(10, 4, 3)).astype(np.float32), np.arange(10)
  traces = []

  @jax.jit
  def run(x, labels):
    traces.append(x.shape)
    maps = jnp.maximum(x, 0) * labels[:, None, None]
    return {'map': maps, 'nothing': None, 'flag': maps.max((1, 2)) == 0}

  found = in_batches(run, x, labels, batch_size=4)
  assert traces == [(4, 4, 3)]
  assert isinstance(found['map'], np.ndarray) and found['nothing'] is None
  chex.assert_trees_all_close(found, jax.device_get(run(x, labels)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('batch_size', [1, 3, 5, 64])
def test_each_example_is_explained_once(batch_size):
  sizes = []

  def double(x):
    sizes.append(len(x))
    return 2 * x

  found = in_batches(double, np.arange(5), batch_size=batch_size)
  np.testing.assert_array_equal(found, 2 * np.arange(5))
  assert set(sizes) == {min(batch_size, 5)}


def test_padded_calls_have_one_batch_size_for_data_of_any_length():
  sizes = []

  def double(x):
    sizes.append(len(x))
    return 2 * x

  for n in (3, 1, 4, 7):
    found = in_batches(double, np.arange(n), batch_size=4, pad=True)
    np.testing.assert_array_equal(found, 2 * np.arange(n))
  assert sizes == [4] * 5


def test_batches_may_come_from_an_iterator():
  stream = ((np.arange(start, stop), np.ones(stop - start)) for start, stop in [(0, 4), (4, 6)])
  found = in_batches(lambda x, y: x[:4] + y, stream)
  np.testing.assert_array_equal(found, 1 + np.arange(6))
  found = in_batches(lambda x: (x, -x), iter([np.arange(3), np.arange(1)]))
  chex.assert_trees_all_equal(found, (np.array([0, 1, 2, 0]), np.array([0, -1, -2, 0])))


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ((np.zeros(3), np.zeros(4)), r'lengths \[3, 4\]'),
    ((np.zeros(0),), 'no example'),
    (([np.zeros(2), np.zeros(3)],), 'a batch of 3 follows a first one of 2'),
  ],
)
def test_batches_that_do_not_fit_are_refused(arrays, message):
  with pytest.raises(UserError, match=message):
    in_batches(lambda *x: x[0], *arrays)
  with pytest.raises(UserError, match='batch_size=0'):
    in_batches(lambda *x: x[0], np.zeros(3), batch_size=0)
