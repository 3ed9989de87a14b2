"""The non-local block against float64 loops, with every kernel and place of the pool."""

import jax
import numpy as np
import pytest
from against_oracle import C, assert_oracle, feature_maps, variable_shapes
from oracles import flat

from attn_flax.attention.non_local import KERNELS, SUBSAMPLES, NonLocal
from attn_flax.errors import UserError


def max_pool(x):
  """2x2, rounded down."""
  n, height, width, channels = x.shape
  y = np.zeros((n, height // 2, width // 2, channels))
  for i, j in np.ndindex(y.shape[1:3]):
    y[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
  return y


def non_local(o, x, kernel, subsample, scale):
  """The output and the weights, one pair of pixels at a time."""
  before = max_pool if subsample == 'before' else lambda y: y
  after = max_pool if subsample == 'after' else lambda y: y
  g = flat(after(o.conv(before(x), 'g')))[:, 0]
  if kernel == 'gaussian':
    theta, phi = flat(x)[:, 0], flat(after(before(x)))[:, 0]
  else:
    theta, phi = flat(o.conv(x, 'theta'))[:, 0], flat(after(o.conv(before(x), 'phi')))[:, 0]
  hidden = g.shape[-1]
  join = o.get('concatenation').ravel() if kernel == 'concatenation' else None
  weights = np.zeros((len(x), 1, theta.shape[1], phi.shape[1]))
  for n, i, j in np.ndindex(len(x), theta.shape[1], phi.shape[1]):
    if kernel == 'concatenation':
      score = max(join @ np.concatenate([theta[n, i], phi[n, j]]), 0) / phi.shape[1]
    elif kernel == 'dot':
      score = theta[n, i] @ phi[n, j] / phi.shape[1]
    else:
      shrink = np.sqrt(hidden) if kernel == 'embedded' and scale else 1
      score = np.exp(theta[n, i] @ phi[n, j] / shrink)
    weights[n, 0, i, j] = score
  if kernel in ('embedded', 'gaussian'):
    weights /= weights.sum(-1, keepdims=True)
  y = (weights[:, 0] @ g).reshape(*x.shape[:3], hidden)
  return x + o.norm(o.conv(y, 'output'), 'norm'), weights


@pytest.mark.parametrize('subsample', SUBSAMPLES)
@pytest.mark.parametrize(
  ('kernel', 'scale'), [('embedded', False), *((kernel, True) for kernel in KERNELS)]
)
def test_non_local(randomized, kernel, subsample, scale):
  """Every kernel and place of the pool; only the embedded kernel has a scale."""
  module = NonLocal(kernel, 6, subsample, scale)

  def expect(o, x):
    assert o.get('g/kernel').shape == (1, 1, C, 4)
    assert o.has('theta/kernel') == (kernel != 'gaussian')
    return non_local(o, x, kernel, subsample, scale)

  assert_oracle(randomized, module, expect, queries=np.array([34, 2, 0, 2]))


def test_non_local_normalizes_with_the_statistics_of_the_batch_in_training(randomized):
  def expect(o, x):
    return non_local(o, x, 'embedded', 'before', True)[0]

  assert_oracle(randomized, NonLocal(ratio=6), expect, train=True)


@pytest.mark.parametrize('kernel', KERNELS)
def test_non_local_starts_as_the_identity_where_its_norm_starts_at_zero(randomized, kernel):
  """Exactly so for any other weights, in evaluation and training; not without `zero_init`."""
  x = feature_maps()
  variables = randomized(variable_shapes(NonLocal(kernel), x))

  @jax.jit
  def run(variables, x):
    found = []
    for zero_init in (True, False):
      module = NonLocal(kernel, zero_init=zero_init)
      initial = module.init(jax.random.key(0), x, train=False)['params']['norm']
      started = {**variables, 'params': {**variables['params'], 'norm': initial}}
      for train in (False, True):
        found.append(module.apply(started, x, train=train, mutable=['batch_stats'])[0])
    return found

  *identities, evaluation, training = run(variables, x)
  for y in identities:
    np.testing.assert_array_equal(y, x)
  assert min(np.abs(evaluation - x).max(), np.abs(training - x).max()) > 0.1


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    ({'kernel': 'softmax'}, 'allowed: concatenation, dot, embedded, gaussian'),
    ({'subsample': 'first'}, 'allowed: after, before, none'),
    ({'subsample': 'none', 'ratio': 25}, 'ratio=25 does not fit 24 channels'),
    ({}, '7x1 cannot be pooled'),
    ({'subsample': 'after'}, '7x1 cannot be pooled'),
  ],
  ids=str,
)
def test_non_local_refuses_maps_that_do_not_fit(fields, text):
  with pytest.raises(UserError, match=text):
    variable_shapes(NonLocal(**fields), feature_maps(width=1))


def test_non_local_without_pooling_takes_any_map():
  variable_shapes(NonLocal(subsample='none'), feature_maps(width=1))
