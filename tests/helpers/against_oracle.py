"""Compares a module, called with random variables, with a float64 oracle of its equations.

Sides, channels, heads and hidden widths are all different, so that no wrong axis goes unseen.
"""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Oracle
from quick_jit import jit

N, H, W, C = 2, 7, 5, 24
both_modes = pytest.mark.parametrize('train', [False, True], ids=['evaluation', 'training'])


def feature_maps(height=H, width=W, channels=C, n=N, scale=0.7):
  """Feature maps with different means, so that pooled values vary from image to image."""
  rng = np.random.default_rng(0)
  means = rng.normal(size=(n, 1, 1, channels))
  return (scale * (means + rng.normal(size=(n, height, width, channels)))).astype(np.float32)


def batch():
  """Feature maps of enough images that the values of a batch norm are not those of their signs."""
  return feature_maps(9, 7, n=5, scale=1)


def _mode(module, train=False):
  """The keyword arguments of a call: convolutions take none."""
  return {} if getattr(module, 'where', '') == 'conv' else {'train': train}


def variable_shapes(module, x):
  """The shapes of a module's variables."""
  x = jnp.asarray(x)
  return jax.eval_shape(lambda: module.init(jax.random.key(0), x, **_mode(module)))


def assert_close(got, expected):
  assert got.shape == expected.shape
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def assert_oracle(randomized, module, expect, x=None, *, queries=None, train=False):
  """Output, gates and running statistics are those of `expect(oracle, x)`.

  It reads every variable. With `queries`, `expect` returns all weights, too, and the rows of these
  queries are compared. Returns the gates that the module recorded, by name.
  """
  x = feature_maps() if x is None else x
  variables = randomized(variable_shapes(module, x))

  @jit
  def run(variables, x):
    mutable = ['batch_stats', 'intermediates']
    y, mutated = module.apply(variables, x, **_mode(module, train), mutable=mutable)
    if queries is None:
      return y, mutated, None
    return y, mutated, module.apply(variables, x, queries, method='weights')

  y, mutated, rows = run(variables, x)
  oracle = Oracle(variables, train)
  expected = expect(oracle, x.astype(np.float64))
  if queries is not None:
    expected, weights = expected
    assert rows.dtype == jnp.float32
    assert_close(rows, weights[:, :, queries])
  assert_close(y, expected)
  assert oracle.used == set(oracle.variables)

  recorded = {name: value for name, (value,) in mutated.get('intermediates', {}).items()}
  assert set(recorded) == set(oracle.gates)
  for name, gate in recorded.items():
    assert_close(gate, oracle.gates[name])
    assert 0 <= gate.min() < gate.max() <= 1

  if train:
    updated = flax.traverse_util.flatten_dict(mutated.get('batch_stats', {}), sep='/')
    assert set(updated) == set(oracle.updated)
    for path, value in updated.items():
      assert_close(value, oracle.updated[path])
  return recorded
