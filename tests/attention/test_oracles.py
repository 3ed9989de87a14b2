"""Each attention module against an independent float64 oracle in NumPy.

The oracles know the variables' names and nothing else of the library. N, H, W, C and the hidden
widths are all different, so that no wrong axis goes unseen.
"""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
  Oracle,
  by_both,
  by_channel,
  by_pixel,
  channel_conv,
  channel_mlp,
  spatial_conv,
  spatial_dilated,
)

from attn_flax.attention import bam, cbam, compose, eca, se
from attn_flax.attention.pools import POOLS
from attn_flax.errors import UserError

N, H, W, C = 5, 9, 7, 24
RATIO = 6  # 4 hidden units
# Programs that run once need no optimization, as compiling takes most of the time.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def _input(shape=(N, H, W, C), seed=0):
  """Feature maps with different means, so that pooled values vary from image to image."""
  rng = np.random.default_rng(seed)
  means = rng.normal(size=(shape[0], 1, 1, shape[-1]))
  return (means + rng.normal(size=shape)).astype(np.float32)


def _shapes(module, x):
  return jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(x), train=False))


def _run(module, variables, x, train):
  """The output, and what the module recorded and updated."""
  mutable = ['batch_stats', 'intermediates']
  return jit(lambda v, x: module.apply(v, x, train=train, mutable=mutable))(variables, x)


def _assert_oracle(randomized, module, expect, train):
  """Output, gates and running statistics are those of `expect(oracle, x)`."""
  x = _input()
  variables = randomized(_shapes(module, x))
  y, mutated = _run(module, variables, x, train)
  oracle = Oracle(variables, train)
  expected = expect(oracle, x.astype(np.float64))
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  assert oracle.used == set(oracle.variables)

  recorded = mutated.get('intermediates', {})
  assert set(recorded) == set(oracle.gates)
  for name, (gate,) in recorded.items():
    assert gate.shape == oracle.gates[name].shape
    np.testing.assert_allclose(gate, oracle.gates[name], rtol=1e-5, atol=1e-5)
    assert 0 <= gate.min() < gate.max() <= 1

  if train:
    updated = flax.traverse_util.flatten_dict(mutated.get('batch_stats', {}), sep='/')
    assert set(updated) == set(oracle.updated)
    for path, value in updated.items():
      np.testing.assert_allclose(value, oracle.updated[path], rtol=1e-5, atol=1e-5)


both_modes = pytest.mark.parametrize('train', [False, True], ids=['evaluation', 'training'])


@both_modes
@pytest.mark.parametrize(
  'fields',
  [
    {'pools': ('avg',)},
    {'pools': ('max', 'lp'), 'bias': False},
    {'pools': ('avg',), 'norm': True},
    {'pools': ('avg', 'max'), 'norm': True, 'end_norm': True},
  ],
  ids=str,
)
def test_channel_mlp(randomized, fields, train):
  """The logits, before any activation."""
  options = {key: fields[key] for key in fields if key != 'bias'}

  def expect(o, x):
    o.variables = {path.replace('/', '/channel/', 1): value for path, value in o.variables.items()}
    logits = channel_mlp(o, x, **options)
    o.updated = {path.removeprefix('channel/'): value for path, value in o.updated.items()}
    return logits[:, None, None, :]

  _assert_oracle(randomized, se.ChannelMLP(RATIO, **fields), expect, train)


@both_modes
@pytest.mark.parametrize('fields', [{}, {'bias': False}, {'divisor': 8}], ids=str)
def test_se(randomized, fields, train):
  def expect(o, x):
    return by_channel(o, x, channel_mlp(o, x))

  _assert_oracle(randomized, se.SE(RATIO, **fields), expect, train)


@both_modes
@pytest.mark.parametrize('circular', [False, True], ids=['zeros', 'circular'])
@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7, None])
def test_eca(randomized, kernel_size, circular, train):
  def expect(o, x):
    return by_channel(o, x, channel_conv(o, x, circular))

  _assert_oracle(randomized, eca.ECA(kernel_size, circular=circular), expect, train)


@both_modes
@pytest.mark.parametrize(
  'fields',
  [
    *({'order': order} for order in compose.ORDERS),
    *({'pools': (pool,)} for pool in POOLS),
    {'pools': ('avg', 'max', 'lp', 'lse'), 'bias': False},
    {'kernel_size': 3, 'zero_init_spatial': False},
  ],
  ids=str,
)
def test_cbam(randomized, fields, train):
  order, pools = fields.get('order', 'channel_first'), fields.get('pools', ('avg', 'max'))

  def expect(o, x):
    if order == 'channel_first':
      x = by_channel(o, x, channel_mlp(o, x, pools=pools))
      return by_pixel(o, x, spatial_conv(o, x))
    if order == 'spatial_first':
      x = by_pixel(o, x, spatial_conv(o, x))
      return by_channel(o, x, channel_mlp(o, x, pools=pools))
    if order == 'channel_only':
      return by_channel(o, x, channel_mlp(o, x, pools=pools))
    if order == 'spatial_only':
      return by_pixel(o, x, spatial_conv(o, x))
    channel = channel_mlp(o, x, pools=pools)[:, None, None, :]
    spatial = spatial_conv(o, x)[:, :, :, None]
    return by_both(o, x, channel + spatial if order == 'parallel_sum' else channel * spatial)

  _assert_oracle(randomized, cbam.CBAM(RATIO, **fields), expect, train)


@both_modes
@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'combine': 'sum'},
    {'end_norm': True},
    {'combine': 'sum', 'end_norm': True, 'depth': 1},
    {'depth': 3, 'dilation': 2},
  ],
  ids=str,
)
def test_bam(randomized, fields, train):
  end_norm = fields.get('end_norm', False)

  def expect(o, x):
    channel = channel_mlp(o, x, norm=True, end_norm=end_norm)[:, None, None, :]
    spatial = spatial_dilated(o, x, fields.get('depth', 2), fields.get('dilation', 4), end_norm)
    spatial = spatial[:, :, :, None]
    total = channel + spatial if fields.get('combine') == 'sum' else channel * spatial
    return x + by_both(o, x, total)

  _assert_oracle(randomized, bam.BAM(RATIO, **fields), expect, train)


# --- properties


@pytest.mark.parametrize(
  'module',
  [se.SE(RATIO), eca.ECA(), cbam.CBAM(RATIO, order='channel_only')],
  ids=lambda module: type(module).__name__,
)
def test_permuted_pixels_permute_the_output_of_channel_gates(randomized, module):
  x = _input()
  variables = randomized(_shapes(module, x))
  order = np.random.default_rng(1).permutation(H * W)

  def permute(x):
    return np.asarray(x).reshape(N, H * W, C)[:, order].reshape(N, H, W, C)

  y, _ = _run(module, variables, x, train=False)
  permuted, _ = _run(module, variables, permute(x), train=False)
  np.testing.assert_allclose(permuted, permute(y), rtol=1e-5, atol=1e-5)


@both_modes
def test_zero_init_starts_cbams_spatial_gate_at_one_half_everywhere(train):
  x = _input()
  for zero_init in (True, False):
    module = cbam.CBAM(RATIO, zero_init_spatial=zero_init)
    variables = jit(lambda x, m=module: m.init(jax.random.key(0), x, train=False))(x)
    _, mutated = _run(module, variables, x, train)
    gate = np.asarray(mutated['intermediates']['spatial_gate'][0])
    assert (gate == 0.5).all() == zero_init


# The rule of the paper, by hand: log2(C) / 2 + 1 / 2 is 2.5, 3, 3.5, 4 (a tie), 4.5, 5, 5.5 and
# 6 (a tie); the nearest odd number, ties up.
ADAPTIVE = {16: 3, 32: 3, 64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7}


@pytest.mark.parametrize('channels', ADAPTIVE)
def test_adaptive_kernel_size_is_the_papers(channels):
  assert eca.adaptive_kernel_size(channels) == ADAPTIVE[channels]
  kernel = _shapes(eca.ECA(), np.zeros((1, 2, 3, channels)))['params']['channel']['conv']['kernel']
  assert kernel.shape == (ADAPTIVE[channels], 1, 1)


@pytest.mark.parametrize(('gamma', 'b'), [(2, 1), (1, 1), (3, 2), (1.5, -4)])
def test_adaptive_kernel_size_is_the_nearest_odd_number(gamma, b):
  odd = np.arange(1, 31, 2)
  for channels in range(1, 3000):
    distance = np.abs(odd - abs((np.log2(channels) + b) / gamma))
    expected = max(odd[np.isclose(distance, distance.min(), atol=1e-9)])
    assert eca.adaptive_kernel_size(channels, gamma, b) == expected


# Channels, ratio, divisor, hidden units: C // r, or the multiple of the divisor nearest to C / r.
HIDDEN = [
  (64, 16, 1, 4),
  (100, 16, 1, 6),
  (16, 16, 1, 1),
  (64, 16, 8, 8),
  (128, 16, 8, 8),
  (192, 16, 8, 16),
  (304, 16, 8, 16),
  (320, 16, 8, 24),
  (256, 16, 8, 16),
]


@pytest.mark.parametrize(('channels', 'ratio', 'divisor', 'hidden'), HIDDEN)
def test_se_has_the_hidden_width_of_its_ratio_and_divisor(channels, ratio, divisor, hidden):
  shapes = _shapes(se.SE(ratio, divisor=divisor), np.zeros((1, 2, 3, channels)))
  assert shapes['params']['channel']['reduce']['kernel'].shape == (channels, hidden)


@pytest.mark.parametrize('module', [se.SE, cbam.CBAM, bam.BAM])
def test_a_ratio_that_leaves_no_hidden_unit_is_refused(module):
  with pytest.raises(UserError, match=f'ratio=25 does not fit {C} channels'):
    _shapes(module(25), _input())
  with pytest.raises(UserError, match='ratio=0 is impossible; choose a whole number from 1 to'):
    module(0)


def test_log_sum_exp_pool_does_not_overflow():
  """For 63 pixels of 1000 each, it is 1000 + log(63)."""
  pool = POOLS['lse'](jnp.full((1, H, W, 1), 1000.0))
  np.testing.assert_allclose(pool, 1000 + np.log(H * W), rtol=1e-6)


def test_lp_pool_has_a_finite_gradient_at_a_map_of_zeros():
  gradient = jax.grad(lambda x: POOLS['lp'](x).sum())(jnp.zeros((1, H, W, 2)))
  np.testing.assert_array_equal(gradient, np.zeros((1, H, W, 2)))


@pytest.mark.parametrize(
  ('make', 'text'),
  [
    (lambda: cbam.CBAM(RATIO, order='channelfirst'), "did you mean 'channel_first'"),
    (lambda: cbam.CBAM(RATIO, pools=('mean',)), 'avg, lp, lse, max'),
    (lambda: bam.BAM(RATIO, combine='add'), 'allowed: product, sum'),
  ],
  ids=['order', 'pool', 'combine'],
)
def test_unknown_options_are_refused_with_the_allowed_ones(make, text):
  with pytest.raises(UserError, match=text):
    _shapes(make(), _input())
