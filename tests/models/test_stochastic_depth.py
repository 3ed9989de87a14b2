"""Stochastic depth and dropout of the residual networks, against plain NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_flax import create_model
from attn_flax.models import blocks

HEAD = {'kernel': np.eye(4, dtype=np.float32), 'bias': np.zeros(4, np.float32)}

pytestmark = pytest.mark.usefixtures('quick_compilation')


class Branch(nn.Module):
  """A module that only drops paths."""

  rate: float

  @nn.compact
  def __call__(self, y, train):
    return blocks.drop_path(y, self.rate, train)


@pytest.mark.parametrize('rate', [0.2, 0.7])
def test_a_branch_is_kept_or_dropped_as_a_whole(rate):
  y = np.random.default_rng(0).normal(size=(4000, 2, 3, 2)).astype(np.float32)
  key = jax.random.key(0)
  actual = np.asarray(Branch(rate).apply({}, jnp.asarray(y), True, rngs={'dropout': key}))
  stays = actual.any(axis=(1, 2, 3))
  expected = np.where(stays[:, None, None, None], y / (1 - rate), 0)
  np.testing.assert_allclose(actual, expected, rtol=1e-6)
  assert abs((~stays).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / 4000)
  np.testing.assert_array_equal(Branch(rate).apply({}, jnp.asarray(y), False), y)


@pytest.mark.parametrize('name', ['resnet18', 'wrn10_1'])
def test_the_rate_grows_from_block_to_block(name, monkeypatch):
  """Linearly, to the given rate in the last block: Huang et al., section 3."""
  rates = []
  monkeypatch.setattr(blocks, 'drop_path', lambda y, rate, train: rates.append(rate) or y)
  model = create_model(name, drop_path=0.4, depths=(2, 1, 1), widths=(4, 4, 4), num_classes=4)
  jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
  np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize('field', ['drop_path', 'dropout'])
@pytest.mark.parametrize('name', ['resnet18', 'wrn10_1'])
def test_evaluation_drops_nothing_and_training_depends_on_the_key(name, field):
  images = jax.random.normal(jax.random.key(1), (50, 8, 8, 3))
  small = {'depths': (1,), 'widths': (4,), 'num_classes': 4}
  small |= {'stem': 'cifar', 'stem_width': 4} if name == 'resnet18' else {}
  plain, model = create_model(name, **small), create_model(name, **small, **{field: 0.5})
  init = jax.jit(lambda: plain.init(jax.random.key(0), images, train=False))
  # This head copies its features.
  variables = init() | {'params': {**init()['params'], 'head': HEAD}}

  @jax.jit
  def outputs(seed):
    """Outputs of the networks with and without dropping, in training and in evaluation."""
    rngs = {'dropout': jax.random.key(seed)}
    trained = [
      each.apply(variables, images, train=True, mutable=['batch_stats'], rngs=rngs)[0]
      for each in (model, plain)
    ]
    return *trained, *(each.apply(variables, images, train=False) for each in (model, plain))

  first, whole, *evaluated = map(np.asarray, outputs(2))
  np.testing.assert_array_equal(*evaluated)
  np.testing.assert_array_equal(first, outputs(2)[0])
  assert (first != outputs(3)[0]).any() and (first != whole).any()
  if name == 'resnet18' and field == 'dropout':  # It acts right before the head, as a mask.
    stays = first != 0
    np.testing.assert_allclose(first, np.where(stays, 2 * whole, 0), rtol=1e-5)
    assert 0.35 < stays[whole != 0].mean() < 0.65
