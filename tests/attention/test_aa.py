"""Attention-augmented convolution against float64 loops, its initial values and its dimensions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from against_oracle import assert_oracle, feature_maps, variable_shapes
from oracles import attention_loop, conv_loop, flat

from attn_flax.attention.aa import AugmentedConv, augmented_dims
from attn_flax.errors import UserError


def average_pool(x):
  """3x3 windows around every second pixel; pixels outside the map are not counted."""
  n, height, width, channels = x.shape
  y = np.zeros((n, -(-height // 2), -(-width // 2), channels))
  for i in range(y.shape[1]):
    for j in range(y.shape[2]):
      window = x[:, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
      y[:, i, j] = window.mean((1, 2))
  return y


def upsample(x, height, width):
  """Bilinear: values lie at the centers of pixels, and the border's values continue outside."""

  def neighbors(place, size, length):
    at = np.clip((place + 0.5) * size / length - 0.5, 0, size - 1)
    low = int(at)
    return low, min(low + 1, size - 1), at - low

  y = np.zeros((x.shape[0], height, width, x.shape[-1]))
  for i in range(height):
    for j in range(width):
      top, bottom, down = neighbors(i, x.shape[1], height)
      left, right, across = neighbors(j, x.shape[2], width)
      above = (1 - across) * x[:, top, left] + across * x[:, top, right]
      below = (1 - across) * x[:, bottom, left] + across * x[:, bottom, right]
      y[:, i, j] = (1 - down) * above + down * below
  return y


def augmented(o, x, heads, key_dim, value_dim, stride=1, pool=False):
  """The output and the weights, with relative positions where the variables have them."""
  parts = []
  if o.has('conv/kernel'):
    parts.append(conv_loop(x, o.get('conv/kernel'), stride, 1))
  small = average_pool(x) if pool else x
  qkv = conv_loop(small, o.get('qkv/kernel'), stride, 0)
  n, height, width, _ = qkv.shape
  assert qkv.shape[-1] == 2 * key_dim + value_dim

  def split(start, length):
    """Splits channels into heads, each with consecutive channels."""
    each = length // heads
    return np.stack(
      [flat(qkv[..., start + h * each : start + (h + 1) * each])[:, 0] for h in range(heads)], 1
    )

  q, k, v = split(0, key_dim), split(key_dim, key_dim), split(2 * key_dim, value_dim)
  tables = None
  if o.has('relative_height'):
    tables = o.get('relative_height'), o.get('relative_width')
  q = q / np.sqrt(key_dim / heads)
  y, weights, _ = attention_loop(q, k, v, (height, width), tables)
  y = np.concatenate([y[:, h] for h in range(heads)], -1)
  y = y.reshape(n, height, width, value_dim) @ o.get('output/kernel')[0, 0]
  if pool:
    y = upsample(y, -(-x.shape[1] // stride), -(-x.shape[2] // stride))
  return np.concatenate([*parts, y], -1), weights


# Fields of a module with 21 features: 3 heads, dk = 12 and dv = 6 unless given.
SHARES = {'heads': 3, 'kappa': 0.6, 'upsilon': 0.3, 'min_key_dim': 2}
AUGMENTED = [
  {},
  {'relative': False},
  {'stride': 2},
  {'pool': True},
  {'pool': True, 'stride': 2, 'implementation': 'direct'},
  {'pool': True, 'relative': False, 'implementation': 'fused'},
  {'kappa': 1.0, 'upsilon': 1.0},
  {'kappa': 1.0, 'upsilon': 1.0, 'stride': 2, 'pool': True},
  {'kappa': 0.0, 'min_key_dim': 5},
]


@pytest.mark.parametrize('fields', AUGMENTED, ids=str)
def test_augmented_convolution(randomized, fields):
  """With both parts, the pooled map, the relative positions, and the weights."""
  fields = {**SHARES, **fields}
  key_dim = {0.6: 12, 1.0: 21, 0.0: 15}[fields['kappa']]
  value_dim = {0.3: 6, 1.0: 21}[fields['upsilon']]

  def expect(o, x):
    assert o.has('conv/kernel') == (value_dim < 21)
    assert o.has('relative_height') == fields.get('relative', True)
    options = {name: fields[name] for name in ('stride', 'pool') if name in fields}
    return augmented(o, x, 3, key_dim, value_dim, **options)

  assert_oracle(
    randomized,
    AugmentedConv(21, **fields),
    expect,
    feature_maps(9, 7, 4),
    queries=np.array([3, 0, 3]),
  )


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('pool', [False, True], ids=['full', 'pool'])
def test_augmented_convolution_without_values_is_the_convolution(randomized, stride, pool):
  """With upsilon=0 its only variable is the kernel of all features, and it has no weights."""
  module = AugmentedConv(6, stride, kappa=0.0, upsilon=0.0, pool=pool)

  def expect(o, x):
    assert set(o.variables) == {'params/conv/kernel'}
    return conv_loop(x, o.get('conv/kernel'), stride, 1)

  x = feature_maps(channels=4)
  assert_oracle(randomized, module, expect, x)
  assert (
    module.apply(randomized(variable_shapes(module, x)), x, np.array([0]), method='weights') is None
  )


def test_relative_vectors_start_with_mean_zero_and_the_deviation_of_a_heads_scale():
  """The paper's listing has the deviation, here 25^-0.5 = 0.2, as the mean."""
  module = AugmentedConv(64, heads=2, min_key_dim=25)
  tables = {'relative_height': 47, 'relative_width': 63}

  @jax.jit
  def draw(x):
    params = module.init(jax.random.key(0), x)['params']
    return {name: params[name] for name in tables}

  for name, table in draw(jnp.zeros((1, 24, 32, 3))).items():
    chex.assert_shape(table, (tables[name], 25))
    assert abs(table.mean()) < 0.02
    assert 0.19 < table.std() < 0.21


# kappa, upsilon: (dk, dv) for 128, 256 and 512 features, 8 heads, at least 20 key dimensions each.
DIMS = {
  (0.2, 0.1): [(160, 8), (160, 24), (160, 48)],
  (0.25, 0.25): [(160, 32), (160, 64), (160, 128)],
  (0.5, 0.5): [(160, 64), (160, 128), (256, 256)],
  (0.75, 0.75): [(160, 96), (192, 192), (384, 384)],
  (1.0, 1.0): [(160, 128), (256, 256), (512, 512)],
}


@pytest.mark.parametrize('shares', DIMS, ids=str)
def test_dimensions_are_those_that_the_papers_parameter_counts_need(shares):
  assert [augmented_dims(f, 8, *shares, 20) for f in (128, 256, 512)] == DIMS[shares]


def test_shares_are_rounded_down_from_their_decimal_value():
  """0.29 * 100 is 28.999999999999996 in floating point, but counts as 29."""
  assert augmented_dims(100, 1, 0.29, 0.57, 1) == (29, 57)
  assert augmented_dims(100, 1, 0.289, 0.579, 1) == (28, 57)


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    ({'heads': 0}, 'heads=0'),
    ({'kappa': 1.5}, 'kappa=1.5'),
    ({'kappa': -0.1}, 'kappa=-0.1'),
    ({'upsilon': 1.01}, 'upsilon=1.01'),
    ({'upsilon': -1}, 'upsilon=-1'),
    ({'kappa': 0.0, 'min_key_dim': 0}, 'min_key_dim=0'),
    ({'upsilon': 0.1, 'heads': 7}, 'lower heads to 6'),
    ({'implementation': 'flash'}, 'allowed: blocks, direct, fused'),
  ],
  ids=str,
)
def test_augmented_convolution_refuses_fields_that_do_not_fit(fields, text):
  with pytest.raises(UserError, match=text):
    variable_shapes(AugmentedConv(64, **fields), feature_maps())
