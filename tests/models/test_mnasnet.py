"""MnasNet-A1: counts, shapes, blocks against NumPy, gradients and mistakes."""

import chex
import flax.errors
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quick_jit import jit

from attn_flax import layers
from attn_flax.costs.count import abstract_variables, count_macs, count_params, macs
from attn_flax.errors import UserError
from attn_flax.models import mnasnet
from attn_flax.models.mnasnet import InvertedResidual, MnasNet, Stage, scaled_width

IMAGENET = (224, 224, 3)
SMALL = {'width_multiplier': 0.25, 'depths': (1,) * 7, 'num_classes': 10, 'stem': 'cifar'}
DEPTHS = (1, 2, 3, 4, 2, 3, 1)


# --- counts

# By width multiplier: parameters, multiply-adds at 224x224, and what the released code's README
# (https://github.com/tensorflow/tpu/tree/master/models/official/mnasnet) prints in millions.
# Its parameters equal ours. Its multiply-adds do not: for x1.0 they exceed the 312 millions of the
# paper and of the same README's text, which equal ours to the digit. At all of its 25 combinations
# of width and image size, the excess is about 0.56 per normalized activation, as if it printed half
# the operations of the whole graph, norms, gates and additions included.
GOLDEN = {
  0.35: (1_747_018, 61_681_920, '1.7', 63.2),
  0.5: (2_082_006, 103_162_992, '2.1', 105.2),
  0.75: (2_912_278, 223_448_480, '2.9', 226.7),
  1.0: (3_887_038, 311_579_072, '3.9', 315.2),
  1.25: (5_255_486, 503_413_168, None, None),
  1.4: (6_105_992, 586_317_952, '6.1', 591.5),
}


@pytest.mark.parametrize('multiplier', GOLDEN)
def test_golden_counts(multiplier):
  params, multiply_adds, printed, printed_macs = GOLDEN[multiplier]
  model = MnasNet(width_multiplier=multiplier)
  assert count_params(abstract_variables(model, IMAGENET)) == params
  assert macs(model, IMAGENET) == (multiply_adds, 0)
  if printed:
    assert f'{params / 1e6:.1f}' == printed
    assert 1.008 < printed_macs * 1e6 / multiply_adds < 1.026


def test_the_papers_multiply_adds():
  assert f'{count_macs(MnasNet(), IMAGENET) / 1e6:.0f}' == '312'


def _derive(multiplier):
  """Parameters and multiply-adds layer by layer, without the library."""

  def wide(channels):
    channels *= multiplier
    rounded = max(8, int((channels + 4) / 8) * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8

  params = total = 0
  side, channels = 224, 3

  def conv(kernel, outputs, stride=1, depthwise=False):
    """A square convolution without bias, and its norm."""
    nonlocal params, total, side, channels
    side = (side + stride - 1) // stride
    weights = kernel * kernel * (1 if depthwise else channels) * outputs
    params += weights + 2 * outputs
    total += weights * side * side
    channels = outputs

  conv(3, wide(32), 2)
  # Figure 7: blocks, kernel, stride, expansion, channels, squeeze-and-excitation.
  for blocks, kernel, stride, expansion, outputs, se in (
    (1, 3, 1, 1, 16, False),
    (2, 3, 2, 6, 24, False),
    (3, 5, 2, 3, 40, True),
    (4, 3, 2, 6, 80, False),
    (2, 3, 1, 6, 112, True),
    (3, 5, 2, 6, 160, True),
    (1, 3, 1, 6, 320, False),
  ):
    for block in range(blocks):
      hidden = channels // 4
      if expansion > 1:
        conv(1, expansion * channels)
      conv(kernel, channels, stride if block == 0 else 1, depthwise=True)
      if se:
        params += 2 * channels * hidden + hidden + channels
        total += 2 * channels * hidden
      conv(1, wide(outputs))
  conv(1, 1280)
  return params + 1281 * 1000, total + 1280 * 1000


@pytest.mark.parametrize('multiplier', GOLDEN)
def test_golden_counts_follow_from_the_layers(multiplier):
  assert _derive(multiplier) == GOLDEN[multiplier][:2]


def test_widths_are_rounded_to_multiples_of_eight():
  assert [scaled_width(32, m) for m in (0.25, 0.35, 0.75, 1.0, 1.4)] == [8, 16, 24, 32, 48]
  assert scaled_width(24, 0.75) == 24  # 16 would be over 10 % less than 18
  assert scaled_width(16, 0.1) == 8


# --- shapes and dtypes


def _apply(model, variables, x):
  """Logits in evaluation mode, and the recorded feature maps."""
  run = jit(lambda v, x: model.apply(v, x, train=False, mutable=['intermediates']))
  logits, state = run(variables, x)
  return logits, state['intermediates']


def test_bfloat16_computes_and_float32_is_kept(randomized, monkeypatch):
  monkeypatch.setattr(layers, 'depthwise_conv', lax.conv_general_dilated)  # Compiles faster.
  model = MnasNet(**SMALL, dtype='bfloat16')
  variables = randomized(abstract_variables(model, (16, 24, 3)))
  chex.assert_trees_all_equal_dtypes(
    variables, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables)
  )
  logits, maps = _apply(model, variables, jax.random.normal(jax.random.key(0), (2, 16, 24, 3)))
  chex.assert_shape(logits, (2, 10))
  assert logits.dtype == jnp.float32
  assert maps['stage7'][0].dtype == jnp.bfloat16
  chex.assert_tree_all_finite(logits)


@pytest.mark.parametrize(
  ('stem', 'halvings'), [('imagenet', (1, 2, 3, 4, 4, 5, 5)), ('cifar', (0, 0, 1, 2, 2, 3, 3))]
)
def test_every_stage_is_recorded(stem, halvings):
  model = MnasNet(stem=stem)
  images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)

  def run(x):
    return model.init_with_output(jax.random.key(0), x, train=False, mutable=True)

  logits, variables = jax.eval_shape(run, images)
  assert logits.shape == (2, 1000)
  for i, (halving, width) in enumerate(
    zip(halvings, (16, 24, 40, 80, 112, 160, 320), strict=True), start=1
  ):
    (recorded,) = variables['intermediates'][f'stage{i}']
    assert recorded.shape == (2, 64 >> halving, 96 >> halving, width)
  assert model.num_stages == 7
  assert model.stride == 2 ** halvings[-1]


def test_blocks_are_named_by_stage():
  params = abstract_variables(MnasNet(), IMAGENET)['params']
  blocks = [f'stage{s}_block{i + 1}' for s, depth in enumerate(DEPTHS, 1) for i in range(depth)]
  assert set(params) == {*blocks, 'stem_conv', 'stem_norm', 'head_conv', 'head_norm', 'head'}
  with_se = {name for name in blocks if 'se' in params[name]}
  assert with_se == {name for name in blocks if name[5] in '356'}
  without_expansion = {name for name in blocks if 'expand_conv' not in params[name]}
  assert without_expansion == {'stage1_block1'}


def test_equal_networks_hash_alike():
  assert hash(MnasNet(**SMALL)) == hash(MnasNet(**SMALL))
  assert MnasNet(**SMALL) != MnasNet(**SMALL, padding='torch')


# --- blocks against NumPy


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _block(variables, x, kernel, stride, before, shortcut):
  """A block in evaluation mode and float64; `before`: zeros before the rows and the columns."""
  get = {
    path: np.asarray(value, np.float64)
    for path, value in flax.traverse_util.flatten_dict(variables, sep='/').items()
  }

  def norm(y, name):
    mean, var = (get[f'batch_stats/{name}/{part}'] for part in ('mean', 'var'))
    scale, bias = (get[f'params/{name}/{part}'] for part in ('scale', 'bias'))
    return (y - mean) / np.sqrt(var + 1e-3) * scale + bias

  def dense(y, name):
    return y @ get[f'params/se/{name}/kernel'] + get[f'params/se/{name}/bias']

  y = np.maximum(norm(x @ get['params/expand_conv/kernel'][0, 0], 'expand_norm'), 0)
  n, height, width, channels = y.shape
  filters = get['params/depthwise_conv/kernel']
  z = np.zeros((n, -(-height // stride), -(-width // stride), channels))
  for i in range(z.shape[1]):
    for j in range(z.shape[2]):
      for a in range(kernel):
        for b in range(kernel):
          row, column = stride * i + a - before[0], stride * j + b - before[1]
          if 0 <= row < height and 0 <= column < width:
            z[:, i, j] += y[:, row, column] * filters[a, b, 0]
  z = np.maximum(norm(z, 'depthwise_norm'), 0)
  pooled = z.mean((1, 2))
  gate = _sigmoid(dense(np.maximum(dense(pooled, 'reduce'), 0), 'expand'))
  z = z * gate[:, None, None]
  z = norm(z @ get['params/project_conv/kernel'][0, 0], 'project_norm')
  return (x + z if shortcut else z), gate


@pytest.mark.parametrize(
  ('kernel', 'stride', 'padding', 'before', 'shortcut'),
  [
    (5, 1, 'same', (2, 2), True),
    (5, 1, 'same', (2, 2), False),
    # TensorFlow: three zeros in all over the even rows, four over the odd columns.
    (5, 2, 'same', (1, 2), True),
    (3, 2, 'same', (0, 1), True),
    (5, 2, 'torch', (2, 2), True),
  ],
)
def test_block_matches_its_definition(kernel, stride, padding, before, shortcut, randomized):
  row = Stage(kernel, stride, 3, 12, se=True, shortcut=shortcut)
  block = InvertedResidual(row, 12, 3, stride=stride, padding=padding)
  x = np.random.default_rng(0).normal(size=(2, 6, 9, 12)).astype(np.float32)
  shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), x)
  assert shapes['params']['se']['reduce']['kernel'].shape == (36, 3)  # a quarter of the input
  variables = randomized(shapes)
  y, gates = _apply(block, variables, x)
  expected, gate = _block(variables, x, kernel, stride, before, shortcut and stride == 1)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(gates['se']['channel_gate'][0], gate, rtol=1e-5)


def test_norms_keep_99_percent(randomized):
  block = InvertedResidual(Stage(3, 1, 6, 8, se=False, shortcut=True), 8, 2)
  x = np.random.default_rng(0).normal(size=(3, 5, 4, 8)).astype(np.float32)
  variables = randomized(jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), x))
  run = jit(lambda v, x: block.apply(v, x, train=True, mutable=['batch_stats']))
  updated = run(variables, x)[1]['batch_stats']
  expanded = x @ np.asarray(variables['params']['expand_conv']['kernel'])[0, 0]
  before = variables['batch_stats']['expand_norm']
  for name, batch in (
    ('mean', expanded.mean((0, 1, 2))),
    ('var', expanded.reshape(-1, 48).var(0, ddof=1)),
  ):
    expected = 0.99 * before[name] + 0.01 * batch
    np.testing.assert_allclose(updated['expand_norm'][name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('kernel', 'stride', 'padding', 'dtype'),
  [
    (3, 1, 'same', 'float32'),
    (3, 2, 'same', 'float32'),
    (3, 2, 'torch', 'float32'),
    (5, 2, 'same', 'bfloat16'),
  ],
)
def test_shifted_maps_equal_the_depthwise_convolution(kernel, stride, padding, dtype):
  """In values and gradients, on a CPU, which takes the shifted formulation."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 7, 10, 6)), dtype)
  filters = jnp.asarray(rng.normal(size=(kernel, kernel, 1, 6)), dtype)
  pads = [mnasnet._pads(size, kernel, stride, padding) for size in x.shape[1:3]]
  rest = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'), 'feature_group_count': 6}

  def run(form, pads):
    def total(x, filters):
      y = form(x, filters, (stride, stride), pads, **rest)
      return (y.astype(jnp.float32) * jnp.arange(y.size).reshape(y.shape)).sum() / y.size, y

    (_, y), gradients = jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, filters)
    return y, *gradients

  reference = run(lax.conv_general_dilated, 'SAME' if padding == 'same' else pads)
  for ours, theirs in zip(run(layers.depthwise_conv, pads), reference, strict=True):
    assert ours.dtype == theirs.dtype == dtype
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    tolerance = 1e-5 if dtype == 'float32' else 2e-2
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


def test_logits_follow_from_the_last_map(randomized):
  model = MnasNet(**SMALL)
  x = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
  variables = randomized(abstract_variables(model, (16, 24, 3)))
  logits, maps = _apply(model, variables, x)
  params, stats = variables['params'], variables['batch_stats']['head_norm']
  y = np.asarray(maps['stage7'][0]) @ params['head_conv']['kernel'][0, 0]
  y = (y - stats['mean']) / np.sqrt(stats['var'] + 1e-3)
  y = np.maximum(y * params['head_norm']['scale'] + params['head_norm']['bias'], 0)
  expected = y.mean((1, 2)) @ params['head']['kernel'] + params['head']['bias']
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_initial_weights_are_the_released_ones():
  """Normal with deviation sqrt(2 / fan-out), in the head uniform in +-1 / sqrt(1000)."""
  block = InvertedResidual(Stage(5, 1, 6, 64, se=True, shortcut=True), 64, 6)
  x = jnp.zeros((1, 1, 1, 64))
  params = jit(lambda key: block.init(key, x, train=False)['params'])(jax.random.key(0))
  for path, outputs in (
    (('expand_conv',), 384),
    (('depthwise_conv',), 25),
    (('project_conv',), 64),
    (('se', 'reduce'), 16),
    (('se', 'expand'), 384),
  ):
    layer = params
    for name in path:
      layer = layer[name]
    np.testing.assert_allclose(layer['kernel'].std(), np.sqrt(2 / outputs), rtol=0.05)
    assert not np.any(layer.get('bias', 0))
  head = mnasnet._head_init(jax.random.key(0), (1280, 1000), jnp.float32)
  np.testing.assert_allclose(np.abs(head).max(), 1000**-0.5, rtol=1e-3)


# --- training


def test_gradient_reaches_every_parameter(randomized, monkeypatch):
  """In evaluation mode; in training the next norm cancels the bias of a projection's norm."""
  monkeypatch.setattr(layers, 'depthwise_conv', lax.conv_general_dilated)  # Compiles faster.
  model = MnasNet(**SMALL)
  variables = randomized(abstract_variables(model, (16, 16, 3)))
  x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))

  @jit
  def gradients(params):
    def loss(params):
      logits = model.apply({**variables, 'params': params}, x, train=False)
      return (logits * jnp.cos(jnp.arange(logits.size)).reshape(logits.shape)).sum()

    return jax.grad(loss)(params)

  found = gradients(variables['params'])
  chex.assert_tree_all_finite(found)
  for path, leaf in flax.traverse_util.flatten_dict(found, sep='/').items():
    assert np.abs(leaf).max() > 1e-5, path


def test_dropout_needs_a_key_in_training_only():
  images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)

  def run(model, train, **rngs):
    variables = abstract_variables(model, (8, 8, 3))

    def apply(v, x):
      return model.apply(v, x, train=train, mutable=['batch_stats'], rngs=rngs)

    return jax.eval_shape(apply, variables, images)

  run(MnasNet(**SMALL), train=False)
  run(MnasNet(**SMALL), train=True, dropout=jax.random.key(0))
  run(MnasNet(**SMALL, dropout=0.0), train=True)
  with pytest.raises(flax.errors.InvalidRngError):
    run(MnasNet(**SMALL), train=True)


# --- errors


@pytest.mark.parametrize(
  ('fields', 'shape', 'message'),
  [
    ({'stem': 'large'}, (32, 32, 3), "unknown stem 'large'.*cifar, imagenet"),
    ({'padding': 'valid'}, (32, 32, 3), "unknown padding 'valid'.*same, torch"),
    ({'dtype': 'float16'}, (32, 32, 3), "unknown dtype 'float16'.*bfloat16, float32"),
    (
      {'width_multiplier': 0.0},
      (32, 32, 3),
      'width_multiplier=0.0 is impossible; choose a number from 0.01',
    ),
    ({'depths': (1, 2)}, (32, 32, 3), r'depths=\(1, 2\) must be 7 numbers'),
    ({'depths': (0,) * 7}, (32, 32, 3), r'depths\[0\]=0 is impossible'),
    ({'dropout': 1.0}, (32, 32, 3), 'dropout=1.0 is impossible.*below 1'),
    ({}, (24, 40, 3), "images of 24x40 pixels are too small.*32x32.*stem='cifar'"),
  ],
)
def test_mistakes_are_named(fields, shape, message):
  with pytest.raises(UserError, match=message):
    abstract_variables(MnasNet(**fields), shape)
