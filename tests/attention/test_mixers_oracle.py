"""Attention between pixels and between channels, SCA and the hybrids against float64 oracles.

The oracles are NumPy loops that know the variables' names and nothing else of the library. Sides,
channels, heads and hidden widths are all different, so that no wrong axis goes unseen.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
  Oracle,
  attention_loop,
  channel_conv,
  channel_mlp,
  conv_loop,
  pooled,
  sigmoid,
  spatial_conv,
  spatial_dilated,
)

from attn_flax.attention import additive, compose, dot_product, dual, hybrid
from attn_flax.attention.aa import AugmentedConv, augmented_dims
from attn_flax.attention.non_local import KERNELS, SUBSAMPLES, NonLocal
from attn_flax.attention.sasa import StandAlone
from attn_flax.attention.sca import SCA
from attn_flax.errors import UserError

N, H, W, C = 2, 7, 5, 24


def _input(height=H, width=W, channels=C, seed=0):
  """Feature maps with different means, so that pooled values vary from image to image."""
  rng = np.random.default_rng(seed)
  means = rng.normal(size=(N, 1, 1, channels))
  return (0.7 * (means + rng.normal(size=(N, height, width, channels)))).astype(np.float32)


def _mode(module, train=False):
  """The keyword arguments of a call: convolutions take none."""
  return {} if getattr(module, 'where', '') == 'conv' else {'train': train}


def _shapes(module, x):
  x = jnp.asarray(x)
  return jax.eval_shape(lambda: module.init(jax.random.key(0), x, **_mode(module)))


def _assert_close(got, expected):
  assert got.shape == expected.shape
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def _assert_oracle(randomized, module, expect, x=None, *, queries=None, train=False):
  """The output is that of `expect(oracle, x)`, which reads every variable.

  With `queries`, `expect` returns all weights, too, and the rows of these queries are compared.
  Returns the module's records, and the oracle.
  """
  x = _input() if x is None else x
  variables = randomized(_shapes(module, x))

  @jax.jit
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
    _assert_close(rows, weights[:, :, queries])
  _assert_close(y, expected)
  assert oracle.used == set(oracle.variables)
  return mutated.get('intermediates', {}), oracle


def flat(x):
  """[N, H, W, C] -> [N, 1, H * W, C]: the pixels row by row, as one head."""
  return x.reshape(x.shape[0], 1, -1, x.shape[-1])


# --- attention-augmented convolution


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

  _assert_oracle(
    randomized, AugmentedConv(21, **fields), expect, _input(9, 7, 4), queries=np.array([3, 0, 3])
  )


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('pool', [False, True], ids=['full', 'pool'])
def test_augmented_convolution_without_values_is_the_convolution(randomized, stride, pool):
  """With upsilon=0 its only variable is the kernel of all features, and it has no weights."""
  module = AugmentedConv(6, stride, kappa=0.0, upsilon=0.0, pool=pool)

  def expect(o, x):
    assert set(o.variables) == {'params/conv/kernel'}
    return conv_loop(x, o.get('conv/kernel'), stride, 1)

  x = _input(channels=4)
  _assert_oracle(randomized, module, expect, x)
  assert module.apply(randomized(_shapes(module, x)), x, np.array([0]), method='weights') is None


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
    _shapes(AugmentedConv(64, **fields), _input())


# --- stand-alone self-attention


def stand_alone(o, x, heads, features, size, stride):
  """The output and the weights over the whole map of x, one pixel and window at a time."""
  qkv = x @ o.get('qkv/kernel')[0, 0]
  rows, columns = o.get('relative_rows'), o.get('relative_columns')
  n, height, width, _ = x.shape
  d, reach = features // heads, size // 2
  y = np.zeros((n, height, width, features))
  weights = np.zeros((n, heads, height * width, height * width))
  for image, i, j, h in np.ndindex(n, height, width, heads):
    q, k, v = (slice(part * features + h * d, part * features + (h + 1) * d) for part in range(3))
    query = qkv[image, i, j, q]
    scores = {}
    for a, b in np.ndindex(size, size):
      at = i + a - reach, j + b - reach
      if 0 <= at[0] < height and 0 <= at[1] < width:
        place = np.concatenate([rows[a], columns[b]])
        scores[at] = query @ (qkv[image, *at, k] + place)
    total = sum(np.exp(score) for score in scores.values())
    for at, score in scores.items():
      weight = np.exp(score) / total
      weights[image, h, i * width + j, at[0] * width + at[1]] = weight
      y[image, i, j, h * d : (h + 1) * d] += weight * qkv[image, *at, v]
  if stride == 2:
    halves = np.zeros((n, -(-height // 2), -(-width // 2), features))
    for i, j in np.ndindex(halves.shape[1:3]):
      halves[:, i, j] = y[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
    y = halves
  return y, weights


@pytest.mark.parametrize(
  ('size', 'stride', 'height', 'width'),
  [(5, 1, 7, 4), (7, 1, 4, 3), (1, 1, 3, 4), (3, 2, 6, 4), (3, 2, 7, 5)],
)
def test_stand_alone_attention(randomized, size, stride, height, width):
  """With windows that reach outside the map or are larger than it, and strides on odd sizes."""
  module = StandAlone(18, stride, heads=3, kernel_size=size)
  queries = np.array([height * width - 1, 0, width, width])

  def expect(o, x):
    y, weights = stand_alone(o, x, 3, 18, size, stride)
    np.testing.assert_allclose(weights.sum(-1), 1)
    return y, weights

  _assert_oracle(randomized, module, expect, _input(height, width, 4), queries=queries)


@pytest.mark.parametrize(
  ('features', 'fields', 'text'),
  [
    (20, {'heads': 4}, 'multiple of 2 \\* heads'),
    (32, {'kernel_size': 4}, 'kernel_size=4 is impossible; choose an odd number'),
    (32, {'kernel_size': -1}, 'kernel_size=-1 is impossible'),
    (
      32,
      {'stride': 3},
      'stride=3 is impossible',
    ),
  ],
)
def test_stand_alone_attention_refuses_fields_that_do_not_fit(features, fields, text):
  with pytest.raises(UserError, match=text):
    _shapes(StandAlone(features, **fields), _input())


# --- non-local


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

  _assert_oracle(randomized, module, expect, queries=np.array([34, 2, 0, 2]))


def test_non_local_normalizes_with_the_statistics_of_the_batch_in_training(randomized):
  def expect(o, x):
    return non_local(o, x, 'embedded', 'before', True)[0]

  _assert_oracle(randomized, NonLocal(ratio=6), expect, train=True)


@pytest.mark.parametrize('kernel', KERNELS)
def test_non_local_starts_as_the_identity_where_its_norm_starts_at_zero(randomized, kernel):
  """Exactly so for any other weights, in evaluation and training; not without `zero_init`."""
  x = _input()
  variables = randomized(_shapes(NonLocal(kernel), x))

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
    _shapes(NonLocal(**fields), _input(width=1))


def test_non_local_without_pooling_takes_any_map():
  _shapes(NonLocal(subsample='none'), _input(width=1))


# --- dual attention


def position(o, x, name=''):
  """The map to be added, and the weights."""
  q, k, v = (flat(o.conv(x, f'{name}{part}')) for part in ('query', 'key', 'value'))
  y, weights, _ = attention_loop(q, k, v, x.shape[1:3])
  return o.get(f'{name}gamma') * y.reshape(x.shape), weights


def channels(o, x, energy='released', name=''):
  """The map to be added, by a softmax over the products of a channel with all channels."""
  y = np.zeros_like(x)
  for n, c in np.ndindex(x.shape[0], x.shape[-1]):
    products = np.array([(x[n, ..., c] * x[n, ..., other]).sum() for other in range(x.shape[-1])])
    if energy == 'released':
      products = -products
    weights = np.exp(products - products.max())
    y[n, ..., c] = x[n] @ (weights / weights.sum())
  return o.get(f'{name}gamma') * y


def test_position_attention(randomized):
  def expect(o, x):
    assert o.get('query/kernel').shape == (1, 1, C, 4)
    return position(o, x)

  _assert_oracle(randomized, dual.PositionAttention(6), expect, queries=np.array([34, 2, 0, 2]))


@pytest.mark.parametrize('energy', dual.ENERGIES)
def test_channel_attention(randomized, energy):
  """The released code gives unlike channels more weight, the paper like ones."""

  def expect(o, x):
    return channels(o, x, energy)

  _assert_oracle(randomized, dual.ChannelAttention(energy), expect, 0.5 * _input())


@pytest.mark.parametrize('energy', dual.ENERGIES)
def test_dual(randomized, energy):
  def expect(o, x):
    return x + position(o, x, 'position/')[0] + channels(o, x, energy, 'channel/')

  _assert_oracle(randomized, dual.Dual(6, energy), expect, 0.5 * _input())


def test_dual_starts_as_the_identity(randomized):
  """Exactly so for any other weights, as both gains start at 0."""
  x, module = _input(), dual.Dual()
  variables = randomized(_shapes(module, x))

  @jax.jit
  def run(variables, x):
    initial = module.init(jax.random.key(0), x, train=False)['params']
    started = {
      part: {**variables['params'][part], 'gamma': initial[part]['gamma']}
      for part in ('position', 'channel')
    }
    return module.apply({'params': started}, x, train=False)

  np.testing.assert_array_equal(run(variables, x), x)


def test_unknown_energy_is_refused_with_the_allowed_ones():
  with pytest.raises(UserError, match='allowed: paper, released'):
    _shapes(dual.Dual(energy='max'), _input())


def test_permuted_pixels_permute_the_output_of_mechanisms_without_positions(randomized):
  """These are position and channel attention, and the non-local block without pooling."""
  x, order = 0.5 * _input(), np.random.default_rng(1).permutation(H * W)

  def permute(x):
    return np.asarray(x).reshape(N, H * W, C)[:, order].reshape(N, H, W, C)

  for module in (dual.Dual(), NonLocal(subsample='none'), SCA()):
    variables = randomized(_shapes(module, x))
    run = jax.jit(lambda v, x, m=module: m.apply(v, x, train=False))
    _assert_close(run(variables, permute(x)), permute(run(variables, x)))


# --- additive and dot-product gates


def additive_spatial(o, x, name=''):
  """[N, H, W]: one pixel at a time."""
  logits = np.zeros(x.shape[:3])
  query = o.dense(pooled(x, 'avg'), f'{name}query')
  for n, i, j in np.ndindex(logits.shape):
    hidden = np.tanh(o.dense(x[n, i, j], f'{name}key') + query[n])
    logits[n, i, j] = o.dense(hidden, f'{name}score')[0]
  return logits


def additive_channel(o, x, name=''):
  """[N, C]: one channel at a time, described by its mean and its maximum."""
  described = np.stack([pooled(x, 'avg'), pooled(x, 'max')], -1)
  logits = np.zeros((x.shape[0], x.shape[-1]))
  for n, c in np.ndindex(logits.shape):
    query = o.dense(described[n].mean(0), f'{name}query')
    own = o.get(f'{name}channel')[c]
    hidden = np.tanh(o.dense(described[n, c], f'{name}key') + own + query)
    logits[n, c] = o.dense(hidden, f'{name}score')[0]
  return logits


def dot_product_channel(o, x, name=''):
  """[N, C]: one pair of channels at a time."""
  described = np.stack([pooled(x, 'avg'), pooled(x, 'max')], -1)
  described = o.dense(described, f'{name}embed') + o.get(f'{name}channel')
  logits = np.zeros((x.shape[0], x.shape[-1]))
  for n, c in np.ndindex(logits.shape):
    query = o.dense(described[n, c], f'{name}query')
    scores = [query @ o.dense(other, f'{name}key') / np.sqrt(query.size) for other in described[n]]
    values = [o.dense(other, f'{name}value')[0] for other in described[n]]
    logits[n, c] = np.exp(scores) @ values / np.exp(scores).sum()
  return logits


def test_additive_spatial_gate(randomized):
  def expect(o, x):
    assert o.get('key/kernel').shape == (C, 4)
    return additive_spatial(o, x)[..., None]

  _assert_oracle(randomized, additive.AdditiveSpatial(6), expect)


@pytest.mark.parametrize(
  ('gate', 'oracle'),
  [
    (additive.AdditiveChannel(3), additive_channel),
    (dot_product.DotProductChannel(3), dot_product_channel),
  ],
  ids=['additive', 'dot_product'],
)
def test_channel_gates_between_channels(randomized, gate, oracle):
  def expect(o, x):
    assert o.get('channel').shape == (C, 3)
    return oracle(o, x)[:, None, None, :]

  _assert_oracle(randomized, gate, expect)


# --- SCA


def gate(o, x, kind, logits, activation='sigmoid'):
  """Multiplies x by a gate and keeps it; a softmax is multiplied by the number of its entries."""
  scale, values = 1, sigmoid(logits)
  if activation == 'softmax':
    values = np.exp(logits)
    values /= values.sum(tuple(range(1, values.ndim)), keepdims=True)
    scale = values[0].size
  o.gates[f'{kind}_gate'] = values
  return x * scale * (values[:, None, None, :] if kind == 'channel' else values[..., None])


def _assert_gates(recorded, oracle):
  """The module recorded the gates of the oracle, each value in 0..1."""
  assert set(recorded) == set(oracle.gates)
  for name, (values,) in recorded.items():
    _assert_close(values, oracle.gates[name])
    assert 0 <= values.min() < values.max() <= 1


@pytest.mark.parametrize('activation', compose.ACTIVATIONS)
@pytest.mark.parametrize('order', ['channel_first', 'spatial_first', 'channel_only'])
def test_sca(randomized, order, activation):
  """Each softmax is multiplied by the number of its entries, so that equal gates are 1."""

  def expect(o, x):
    def by_channel(x):
      return gate(o, x, 'channel', additive_channel(o, x, 'channel/'), activation)

    def by_pixel(x):
      return gate(o, x, 'spatial', additive_spatial(o, x, 'spatial/'), activation)

    if order == 'channel_only':
      return by_channel(x)
    return by_pixel(by_channel(x)) if order == 'channel_first' else by_channel(by_pixel(x))

  recorded, oracle = _assert_oracle(randomized, SCA(order, activation, 6, 3), expect)
  _assert_gates(recorded, oracle)
  if activation == 'softmax':
    for (values,) in recorded.values():
      np.testing.assert_allclose(values.reshape(N, -1).sum(-1), 1, rtol=1e-6)


def test_softmax_gates_of_half_precision_sum_to_one(randomized):
  """They are computed in float32; bfloat16 would be off by 1e-3 and more."""
  module, x = SCA(ratio=6, dtype=jnp.bfloat16), jnp.asarray(_input(), jnp.bfloat16)
  variables = randomized(_shapes(module, x))
  run = jax.jit(lambda v, x: module.apply(v, x, train=False, mutable=['intermediates']))
  y, mutated = run(variables, x)
  assert y.dtype == jnp.bfloat16
  for (values,) in mutated['intermediates'].values():
    total = np.asarray(values, np.float64).reshape(N, -1).sum(-1)
    np.testing.assert_allclose(total, 1, rtol=1e-6)


# --- hybrids

# Oracles of the parts, functions of (oracle, map) under the names that the module has for them.
CHANNEL = {
  'se': channel_mlp,
  'eca': lambda o, x: channel_conv(o, x, circular=False),
  'cbam': lambda o, x: channel_mlp(o, x, pools=('avg', 'max')),
  'bam': lambda o, x: channel_mlp(o, x, norm=True),
  'dual': lambda o, x: channels(o, x, name='channel/'),
  'dot_product': lambda o, x: dot_product_channel(o, x, 'channel/'),
  'additive': lambda o, x: additive_channel(o, x, 'channel/'),
}
SPATIAL = {
  'cbam': spatial_conv,
  'bam': lambda o, x: spatial_dilated(o, x, depth=2, dilation=4, end_norm=False),
  'additive': lambda o, x: additive_spatial(o, x, 'spatial/'),
  'position': lambda o, x: position(o, x, 'spatial/')[0],
}
# Parts that return a map to be added.
MIXERS = {('channel', 'dual'), ('spatial', 'position')}


def hybrid_oracle(o, x, channel, spatial, order, residual=False, activation='sigmoid'):
  """The formulas of `compose`, written out."""
  c, s = CHANNEL.get(channel), SPATIAL.get(spatial)
  c_mixes, s_mixes = ('channel', channel) in MIXERS, ('spatial', spatial) in MIXERS

  def by_channel(x):
    return x + c(o, x) if c_mixes else gate(o, x, 'channel', c(o, x), activation)

  def by_pixel(x):
    return x + s(o, x) if s_mixes else gate(o, x, 'spatial', s(o, x), activation)

  if order == 'channel_only' or s is None:
    y = by_channel(x)
  elif order == 'spatial_only' or c is None:
    y = by_pixel(x)
  elif order == 'channel_first':
    y = by_pixel(by_channel(x))
  elif order == 'spatial_first':
    y = by_channel(by_pixel(x))
  elif c_mixes and s_mixes:
    y = x + c(o, x) + s(o, x)
  elif c_mixes:
    y = by_pixel(x) + c(o, x)
  elif s_mixes:
    y = by_channel(x) + s(o, x)
  else:
    logits = c(o, x)[:, None, None, :], s(o, x)[:, :, :, None]
    o.gates['gate'] = sigmoid(sum(logits) if order == 'parallel_sum' else logits[0] * logits[1])
    y = x * o.gates['gate']
  return x + y if residual else y


# Channel part, spatial part, order, residual, activation: every part, order and kind of pair.
HYBRIDS = [
  ('eca', 'cbam', 'channel_first', False, 'sigmoid'),
  ('se', 'bam', 'parallel_sum', True, 'sigmoid'),
  ('cbam', 'additive', 'parallel_product', False, 'sigmoid'),
  ('bam', 'cbam', 'spatial_first', True, 'sigmoid'),
  ('additive', 'cbam', 'channel_only', True, 'sigmoid'),
  ('se', 'additive', 'spatial_only', False, 'softmax'),
  ('dot_product', 'position', 'channel_first', False, 'softmax'),
  ('dot_product', 'position', 'parallel_sum', False, 'sigmoid'),
  ('dual', 'additive', 'parallel_sum', True, 'sigmoid'),
  ('dual', 'position', 'parallel_sum', False, 'sigmoid'),
  ('dual', 'position', 'spatial_first', True, 'sigmoid'),
  ('dual', 'bam', 'channel_first', False, 'sigmoid'),
  ('none', 'position', 'parallel_product', True, 'sigmoid'),
  ('eca', 'none', 'parallel_sum', False, 'softmax'),
]


@pytest.mark.parametrize('case', HYBRIDS, ids='-'.join(['%s'] * 5).__mod__)
def test_hybrid(randomized, case):
  channel, spatial, order, residual, activation = case

  def expect(o, x):
    return hybrid_oracle(o, x, channel, spatial, order, residual, activation)

  module = hybrid.Hybrid(channel, spatial, order, residual, activation, ratio=6, hidden=3)
  recorded, oracle = _assert_oracle(randomized, module, expect, 0.5 * _input())
  _assert_gates(recorded, oracle)


def test_the_oracles_cover_every_part_and_order_of_hybrids():
  assert set(CHANNEL) == set(hybrid.CHANNEL) and set(SPATIAL) == set(hybrid.SPATIAL)
  covered = [{case[i] for case in HYBRIDS} - {'none'} for i in range(3)]
  assert covered == [set(CHANNEL), set(SPATIAL), set(compose.ORDERS)]


GATE_SHAPES = {'channel_gate': (N, C), 'spatial_gate': (N, H, W), 'gate': (N, H, W, C)}
PARALLEL = ('parallel_sum', 'parallel_product')


def _acting(channel, spatial, order):
  """The parts that act, by kind."""
  parts = {'channel': channel, 'spatial': spatial}
  if order.endswith('_only'):
    parts = {order.removesuffix('_only'): parts[order.removesuffix('_only')]}
  return {kind: part for kind, part in parts.items() if part != 'none'}


def _vocabulary(acting, order):
  """The names of the gates that a hybrid records: mixers have none, parallel gates share one."""
  kinds = [kind for kind, part in acting.items() if (kind, part) not in MIXERS]
  return {'gate'} if len(kinds) == 2 and order in PARALLEL else {f'{kind}_gate' for kind in kinds}


def _refusal(acting, order, activation):
  """Why a hybrid is refused, or None."""
  if not acting:
    return 'leave no part that acts'
  if len(acting) == 1 or order not in PARALLEL:
    return None
  if activation == 'softmax':
    return 'gates that act one after the other'
  if order == 'parallel_product' and MIXERS & set(acting.items()):
    return 'returns a feature map to be added'
  return None


@pytest.mark.parametrize('spatial', [*SPATIAL, 'none'])
@pytest.mark.parametrize('channel', [*CHANNEL, 'none'])
def test_every_hybrid_runs_or_is_refused_with_the_reason(channel, spatial):
  """Shape, dtype, variables and records are right in every order, with and without residual."""
  x = jax.ShapeDtypeStruct((N, H, W, C), jnp.float32)
  for order, activation in itertools.product(compose.ORDERS, compose.ACTIVATIONS):
    acting = _acting(channel, spatial, order)
    reason = _refusal(acting, order, activation)
    if activation == 'softmax' and reason is None:
      continue  # The same program but for one function; values are compared above.
    for residual in (False, True):
      if reason is not None:
        with pytest.raises(UserError, match=reason):
          hybrid.Hybrid(channel, spatial, order, residual, activation, ratio=6)
        continue
      module = hybrid.Hybrid(channel, spatial, order, residual, activation, ratio=6)

      def run(x, module=module):
        mutable = ['params', 'batch_stats', 'intermediates']
        return module.init_with_output(jax.random.key(0), x, train=False, mutable=mutable)

      y, variables = jax.eval_shape(run, x)
      assert (y.shape, y.dtype) == (x.shape, x.dtype)
      assert set(variables['params']) == set(acting)
      recorded = variables.get('intermediates', {})
      names = _vocabulary(acting, order)
      assert {name: values[0].shape for name, values in recorded.items()} == {
        name: GATE_SHAPES[name] for name in names
      }


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    ({'channel': 'ecaa'}, "did you mean 'eca'"),
    ({'spatial': 'cbm'}, "did you mean 'cbam'"),
    ({'order': 'both'}, 'allowed: channel_first'),
    ({'activation': 'tanh'}, 'allowed: sigmoid, softmax'),
  ],
  ids=str,
)
def test_unknown_parts_of_a_hybrid_are_refused_with_the_allowed_ones(fields, text):
  with pytest.raises(UserError, match=text):
    _shapes(hybrid.Hybrid(**fields), _input())
