"""The blocks of ResNets against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import conv_loop
from quick_jit import jit

from attn_flax.models.blocks import Block, PreActivationBlock


def _conv(x, kernel, stride, groups=1):
  """A convolution padded by half its kernel."""
  return conv_loop(x, kernel, stride, kernel.shape[0] // 2, groups=groups)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'bottleneck': True},
    {'bottleneck': True, 'stride_in': '1x1'},
    {'bottleneck': True, 'groups': 2, 'base_width': 32},
  ],
  ids=str,
)
def test_plain_block_is_the_formula(randomized, fields, stride):
  """With odd sizes, 4 planes, 6 input channels and running statistics."""
  block = Block(4, stage=2, stride=stride, **fields)
  x = np.random.default_rng(0).normal(size=(2, 5, 7, 6)).astype(np.float32)
  variables = randomized(
    jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), jnp.asarray(x))
  )
  params, stats = jax.tree.map(np.float64, (variables['params'], variables['batch_stats']))

  def unit(x, conv, norm, stride=1, groups=1):
    y = _conv(x, params[conv]['kernel'], stride, groups) - stats[norm]['mean']
    y = y / np.sqrt(stats[norm]['var'] + 1e-5)
    return y * params[norm]['scale'] + params[norm]['bias']

  def relu(x):
    return np.maximum(x, 0)

  if fields:
    first, second = (stride, 1) if fields.get('stride_in') == '1x1' else (1, stride)
    y = relu(unit(x, 'conv1', 'norm1', first))
    y = relu(unit(y, 'conv2', 'norm2', second, fields.get('groups', 1)))
    y = unit(y, 'conv3', 'norm3')
  else:
    y = unit(relu(unit(x, 'conv1', 'norm1', stride)), 'conv2', 'norm2')
  expected = relu(unit(x, 'shortcut_conv', 'shortcut_norm', stride) + y)
  got = jit(lambda v, x: block.apply(v, x, train=False))(variables, x)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('channels', 'stride'), [(4, 1), (4, 2), (6, 1), (6, 2)])
def test_pre_activation_block_is_the_formula(randomized, channels, stride):
  """The first norm and ReLU act on the shortcut only where it is projected."""
  block = PreActivationBlock(4, stage=2, stride=stride)
  x = np.random.default_rng(0).normal(size=(2, 5, 7, channels)).astype(np.float32)
  variables = randomized(
    jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), jnp.asarray(x))
  )
  params, stats = jax.tree.map(np.float64, (variables['params'], variables['batch_stats']))

  def norm_relu(x, name):
    y = (x - stats[name]['mean']) / np.sqrt(stats[name]['var'] + 1e-5)
    return np.maximum(y * params[name]['scale'] + params[name]['bias'], 0)

  y = norm_relu(x, 'norm1')
  shortcut = x
  if channels != 4 or stride == 2:
    shortcut = _conv(y, params['shortcut_conv']['kernel'], stride)
  y = norm_relu(_conv(y, params['conv1']['kernel'], stride), 'norm2')
  expected = shortcut + _conv(y, params['conv2']['kernel'], 1)
  got = jit(lambda v, x: block.apply(v, x, train=False))(variables, x)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
