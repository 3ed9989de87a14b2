"""The layers against NumPy loops, plain formulas and Flax, with PyTorch's conventions."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from oracles import conv_loop

from attn_flax import layers
from attn_flax.layers import convolution, pool

# The largest unit in the last place of bfloat16, relative to the value.
BFLOAT16_ULP = 2.0**-7
NHWC = ('NHWC', 'HWIO', 'NHWC')
PLATFORMS = ('cpu', 'cuda', 'tpu')


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _apply(module, variables, x):
  """The output and the updated batch statistics, compiled as one program."""
  return jax.jit(lambda v, x: module.apply(v, x, mutable=['batch_stats']))(variables, x)


def _program(function, *args):
  return str(jax.make_jaxpr(function)(*args))


def _lowered(function, *args, platform):
  """The StableHLO that a platform's compiler gets; no device of that platform is needed."""
  return export.export(jax.jit(function), platforms=[platform])(*args).mlir_module()


# --- batch norm


def _norm_inputs(shape, dtype='float32'):
  """Input, cotangent and variables; input and cotangent are exact in `dtype`."""
  x = jnp.asarray(_normal(*shape, seed=1) * 1.7 + 0.4, dtype)
  cotangent = jnp.asarray(_normal(*shape, seed=2), dtype)
  rng = np.random.default_rng(3)
  vectors = rng.uniform(0.5, 1.5, (4, shape[-1])).astype(np.float32)
  scale, bias, mean, var = vectors
  variables = {
    'params': {'scale': scale, 'bias': bias - 1},
    'batch_stats': {'mean': mean - 0.6, 'var': var},
  }
  return x, cotangent, variables


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('shape', [(6, 5), (3, 2, 5), (2, 5, 7, 3)])
def test_batch_norm_returns_what_flax_returns(shape, train, dtype):
  x, _, variables = _norm_inputs(shape, dtype)
  reference = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=dtype)
  expected, _ = _apply(reference, variables, x)
  y, _ = _apply(layers.BatchNorm(train, dtype=dtype), variables, x)
  assert y.dtype == expected.dtype == dtype
  tolerance = 2e-6 if dtype == 'float32' else BFLOAT16_ULP
  np.testing.assert_allclose(
    y.astype(np.float32), expected.astype(np.float32), rtol=tolerance, atol=2e-6
  )


def test_batch_norm_has_the_variables_of_flax():
  x = jnp.zeros((2, 5))
  ours = layers.BatchNorm(True).init(jax.random.key(0), x)
  chex.assert_trees_all_equal(ours, nn.BatchNorm(False).init(jax.random.key(0), x))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('shape', [(6, 5), (2, 5, 7, 3)])
def test_batch_norm_gradients_are_those_of_the_plain_formula(shape, dtype):
  x, cotangent, variables = _norm_inputs(shape, dtype)
  params, stats = variables['params'], variables['batch_stats']

  def ours(x, params):
    module = layers.BatchNorm(True, dtype=dtype)
    y, _ = module.apply({'params': params, 'batch_stats': stats}, x, mutable=['batch_stats'])
    return (y.astype(jnp.float32) * cotangent.astype(jnp.float32)).sum()

  def plain(x, params):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    var = ((x - mean) ** 2).mean(axes)
    y = (x - mean) / jnp.sqrt(var + 1e-5) * params['scale'] + params['bias']
    return (y * cotangent.astype(jnp.float32)).sum()

  dx, dparams = jax.jit(jax.grad(ours, (0, 1)))(x, params)
  expected_dx, expected_dparams = jax.jit(jax.grad(plain, (0, 1)))(x.astype(jnp.float32), params)
  assert dx.dtype == dtype
  tolerance = 1e-5 if dtype == 'float32' else BFLOAT16_ULP
  np.testing.assert_allclose(dx.astype(np.float32), expected_dx, rtol=tolerance, atol=2e-6)
  chex.assert_trees_all_close(dparams, expected_dparams, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('momentum', [0.9, 0.99])
def test_running_statistics_are_those_of_pytorch(momentum):
  """The running variance keeps the share `momentum` and takes the unbiased variance."""
  shape = (3, 2, 4, 5)
  _, _, variables = _norm_inputs(shape)
  mean, var = variables['batch_stats']['mean'], variables['batch_stats']['var']
  module = layers.BatchNorm(True, momentum=momentum)
  for seed in (5, 6):
    x = _normal(*shape, seed=seed) * 2 + 1
    _, updated = _apply(module, variables, x)
    variables = {**variables, **updated}
    rows = x.reshape(-1, shape[-1]).astype(np.float64)
    mean = momentum * mean + (1 - momentum) * rows.mean(0)
    var = momentum * var + (1 - momentum) * rows.var(0, ddof=1)
  chex.assert_trees_all_close(
    variables['batch_stats'], {'mean': mean, 'var': var}, rtol=1e-6, atol=1e-6
  )


def test_batch_norm_leaves_its_statistics_alone_at_initialization_and_in_evaluation():
  x, _, variables = _norm_inputs((4, 3))
  initial = jax.jit(layers.BatchNorm(True).init)(jax.random.key(0), x)['batch_stats']
  chex.assert_trees_all_equal(initial, {'mean': np.zeros(3), 'var': np.ones(3)})
  _, updated = _apply(layers.BatchNorm(False), variables, x)
  chex.assert_trees_all_equal(updated['batch_stats'], variables['batch_stats'])


@pytest.mark.parametrize('shape', [(8, 6, 6, 3), (64, 3)])
@pytest.mark.parametrize('mean', [0.0, 1e4])
@pytest.mark.parametrize('first', ['as the others', 'black', 'far off'])
def test_batch_norm_of_shifted_data_is_exact_from_the_first_step_on(shape, mean, first):
  """At 1e4 standard deviations, E[x^2] - E[x]^2 in float32 would be off by several variances.

  The oracle is float64 on the same values. A first example unlike all others is the worst case.
  """
  x = _normal(*shape) + np.float32(mean)
  x[0] = {'as the others': x[0], 'black': np.zeros(shape[1:]), 'far off': x[0] + 1e4}[first]
  variables = {
    'params': {'scale': np.full(3, 1.5, np.float32), 'bias': np.full(3, 0.5, np.float32)},
    'batch_stats': {'mean': np.zeros(3, np.float32), 'var': np.ones(3, np.float32)},
  }
  cotangent = _normal(*shape, seed=1)

  def apply(params):
    y, updated = layers.BatchNorm(True).apply(
      {**variables, 'params': params}, x, mutable=['batch_stats']
    )
    return (y * cotangent).sum(), (y, updated)

  dparams, (y, updated) = jax.jit(jax.grad(apply, has_aux=True))(variables['params'])
  rows = x.reshape(-1, 3).astype(np.float64)
  normalized = (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
  np.testing.assert_allclose(y, 1.5 * normalized + 0.5, rtol=1e-4, atol=1e-4)
  var = 0.9 + 0.1 * rows.var(0, ddof=1)
  # Where the first example is unlike the others, precision may drop by the batch size.
  rtol = 1e-5 + (0 if first == 'as the others' else 1e-6 * shape[0])
  np.testing.assert_allclose(updated['batch_stats']['var'], var, rtol=rtol)
  expected = 0.1 * rows.mean(0)
  atol = 1e-6 * rows.std(0).max()
  np.testing.assert_allclose(updated['batch_stats']['mean'], expected, rtol=1e-6, atol=atol)
  dscale = (normalized * cotangent).reshape(-1, 3).sum(0)
  np.testing.assert_allclose(dparams['scale'], dscale, rtol=1e-4, atol=2e-3)


# --- convolutions


@pytest.mark.parametrize('size', [(8, 5), (7, 6)])
@pytest.mark.parametrize(
  ('kernel', 'stride', 'dilation', 'groups', 'padding'),
  [
    (1, 1, 1, 1, 0),
    (1, 2, 1, 1, 0),
    (1, 2, 1, 2, 0),
    (3, 1, 1, 1, 1),
    (3, 2, 1, 1, 1),
    (3, 2, 1, 2, 1),
    (3, 1, 4, 1, 4),
    (3, 1, 2, 4, 2),
    (7, 2, 1, 1, 3),
  ],
)
def test_conv_is_the_loop_with_pytorchs_padding(size, kernel, stride, dilation, groups, padding):
  x = _normal(2, *size, 4, seed=1)
  module = layers.conv(8, kernel, stride, name='conv', dilation=dilation, groups=groups, bias=True)
  weights = _normal(kernel, kernel, 4 // groups, 8, seed=2)
  bias = _normal(8, seed=3)
  y, _ = _apply(module, {'params': {'kernel': weights, 'bias': bias}}, x)
  expected = conv_loop(x, weights, stride, padding, dilation, groups) + bias
  chex.assert_shape(y, (2, -(-size[0] // stride), -(-size[1] // stride), 8))
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize('barrier', [False, True])
@pytest.mark.parametrize('size', [(8, 6), (7, 5)])
@pytest.mark.parametrize('stride', [1, 2])
def test_a_1x1_convolution_as_a_product_equals_the_convolution(monkeypatch, stride, size, barrier):
  """With the barrier, which depends on the version of JAX, and without it."""
  monkeypatch.setattr(convolution, '_BARRIER', barrier)
  x, kernel = _normal(2, *size, 3, seed=1), _normal(1, 1, 3, 4, seed=2)

  def ours(x, kernel):
    module = layers.conv(4, 1, stride, name='conv')
    return module.apply({'params': {'kernel': kernel}}, x)

  def reference(x, kernel):
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, 'VALID', dimension_numbers=NHWC)

  for platform in PLATFORMS:
    program = _lowered(ours, x, kernel, platform=platform)
    assert 'dot_general' in program and 'stablehlo.convolution' not in program
    assert ('optimization_barrier' in program) == (barrier and platform == 'cpu')
  _assert_same_values_and_gradients(ours, reference, x, kernel)


def _assert_same_values_and_gradients(function, reference, x, kernel):
  def with_gradients(function):
    y, pull = jax.vjp(function, x, kernel)
    return y, pull(jnp.asarray(_normal(*y.shape, seed=9)))

  got = jax.jit(with_gradients, static_argnums=0)(function)
  wanted = jax.jit(with_gradients, static_argnums=0)(reference)
  chex.assert_trees_all_close(got, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
  ('kernel', 'padding'),
  [
    ((7, 7, 2, 1), ((3, 3), (3, 3))),
    ((3, 3, 2, 3), ((1, 1), (1, 1))),
    ((1, 1, 3, 2), ((0, 0), (0, 0))),
    ((3, 5, 2, 2), ((1, 1), (2, 2))),
    ((5, 3, 1, 1), ((4, 0), (0, 1))),
  ],
)
def test_shifted_conv_equals_the_convolution(kernel, padding):
  """A CPU's program has its own formulation, those of other platforms the convolution."""
  x, weights = _normal(2, 9, 6, kernel[2], seed=1), _normal(*kernel, seed=2)

  def ours(x, weights):
    return layers.shifted_conv(x, weights, (1, 1), padding, dimension_numbers=NHWC)

  def reference(x, weights):
    return lax.conv_general_dilated(x, weights, (1, 1), padding, dimension_numbers=NHWC)

  for platform in PLATFORMS:
    program = _lowered(ours, x, weights, platform=platform)
    assert ('stablehlo.convolution' in program) == (platform != 'cpu')
    assert ('stablehlo.dot_general' in program) == (platform == 'cpu')
  _assert_same_values_and_gradients(ours, reference, x, weights)


@pytest.mark.parametrize('size', [(8, 6), (7, 5)])
@pytest.mark.parametrize('kernel', [3, 5])
@pytest.mark.parametrize(('stride', 'padding'), [(1, (1, 1)), (2, (0, 1)), (2, (2, 2))])
def test_depthwise_conv_equals_the_convolution(size, kernel, stride, padding):
  """A CPU's program has its own formulation, those of other platforms the convolution."""
  x, weights = _normal(2, *size, 6, seed=1), _normal(kernel, kernel, 1, 6, seed=2)
  options = {'dimension_numbers': NHWC, 'feature_group_count': 6}

  def ours(x, weights):
    return layers.depthwise_conv(x, weights, (stride,) * 2, (padding,) * 2, **options)

  def reference(x, weights):
    return lax.conv_general_dilated(x, weights, (stride,) * 2, (padding,) * 2, **options)

  for platform in PLATFORMS:
    program = _lowered(ours, x, weights, platform=platform)
    assert ('stablehlo.convolution' in program) == (platform != 'cpu')
  _assert_same_values_and_gradients(ours, reference, x, weights)


@pytest.mark.parametrize(
  'options',
  [{'stride': 2}, {'dilation': 2}, {'groups': 2}],
  ids=lambda options: next(iter(options)),
)
def test_shifted_conv_refuses_what_it_does_not_cover(options):
  module = layers.conv(2, 3, name='conv', conv_general_dilated=layers.shifted_conv, **options)
  with pytest.raises(ValueError, match='no strides, groups or dilations'):
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 6, 5, 2)))


# --- pooling, taps, initial values


@pytest.mark.parametrize('size', [(8, 5), (7, 6)])
@pytest.mark.parametrize(('window', 'stride', 'padding'), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
def test_max_pool_is_the_loop(size, window, stride, padding):
  """All values are negative, so that a border padded with zeros would win."""
  x = -1 - np.abs(_normal(2, *size, 3))
  height, width = ((side + 2 * padding - window) // stride + 1 for side in size)
  expected = np.full((2, height, width, 3), -np.inf, np.float32)
  for i in range(height):
    for j in range(width):
      for row in range(i * stride - padding, i * stride - padding + window):
        for column in range(j * stride - padding, j * stride - padding + window):
          if 0 <= row < size[0] and 0 <= column < size[1]:
            expected[:, i, j] = np.maximum(expected[:, i, j], x[:, row, column])
  pooled = jax.jit(lambda x: layers.max_pool(x, window, stride, padding))(x)
  np.testing.assert_array_equal(pooled, expected)


@pytest.mark.parametrize('axis', [0, 1, -1])
def test_largest_is_the_maximum_and_gives_it_the_gradient(axis):
  """Two equal entries share it."""
  x = _normal(3, 4, 5)
  np.moveaxis(x, axis, 0)[:2, 0, 0] = 10
  y, pull = jax.vjp(lambda x: layers.largest(x, axis), x)
  np.testing.assert_array_equal(y, x.max(axis))
  cotangent = _normal(*y.shape, seed=1)
  expected = np.zeros_like(x)
  rows, columns = np.moveaxis(x, axis, 0), np.moveaxis(expected, axis, 0)
  for place in np.ndindex(*y.shape):
    winners = [i for i in range(len(rows)) if rows[i][place] == rows[:, *place].max()]
    for i in winners:
      columns[i][place] = cotangent[place] / len(winners)
  assert np.count_nonzero(expected) == y.size + 1
  np.testing.assert_allclose(pull(cotangent)[0], expected, rtol=1e-6)


@pytest.mark.parametrize(('off', 'kept'), [(2.0**-23, True), (-(2.0**-23), True), (0.01, False)])
def test_largest_has_no_nan_where_recomputed_entries_miss_the_maximum(monkeypatch, off, kept):
  """Compilers may round differently in the backward pass; the gradient is kept then."""
  x, dx = _normal(6, 5), _normal(6, 5, seed=1)
  monkeypatch.setattr(pool, 'largest', lambda x, axis: x.max(axis) + off * np.abs(x.max(axis)))
  _, tangent = pool._largest_jvp(1, (x,), (dx,))
  expected = dx[np.arange(6), x.argmax(1)] if kept else np.zeros(6)
  np.testing.assert_allclose(tangent, expected, rtol=1e-6)


class _Tapped(nn.Module):
  @nn.compact
  def __call__(self, x):
    return layers.tap(self, 'map', 3 * x) ** 2


def test_tap_costs_nothing_unless_asked():
  x = jnp.arange(4.0)
  assert _Tapped().init(jax.random.key(0), x) == {}
  np.testing.assert_array_equal(_Tapped().apply({}, x), 9 * x**2)


def test_tap_records_the_activation():
  x = jnp.arange(4.0)
  _, recorded = _Tapped().apply({}, x, mutable=['intermediates'])
  chex.assert_trees_all_equal(recorded, {'intermediates': {'map': (3 * x,)}})


def test_tap_makes_the_activation_differentiable():
  """For y = a^2 with a = 3x + p, dy/dp is 2a = 2 (3x + p), also where p is not 0."""
  x = jnp.arange(4.0)
  at = jax.grad(lambda p: _Tapped().apply({'perturbations': {'map': p}}, x).sum())
  np.testing.assert_array_equal(at(jnp.zeros(4)), 6 * x)
  np.testing.assert_array_equal(at(jnp.ones(4)), 6 * x + 2)


def _initialize(module, x):
  return jax.jit(module.init)(jax.random.key(1), x)['params']


def test_convolutions_start_with_he_fan_out_normal_weights():
  """With fan_out = 9 * 128 = 1152 the deviation is sqrt(2 / 1152) = 0.041667, not truncated."""
  module = layers.conv(128, 3, name='conv', bias=True)
  params = _initialize(module, jnp.zeros((1, 4, 4, 64)))
  kernel = np.asarray(params['kernel'])
  chex.assert_shape(kernel, (3, 3, 64, 128))
  np.testing.assert_allclose(kernel.std(), 0.041667, rtol=0.01)  # 0.3 % is one standard error
  np.testing.assert_allclose(kernel.mean(), 0, atol=0.0008)
  beyond = (np.abs(kernel) > 3 * 0.041667).mean()
  np.testing.assert_allclose(beyond, 0.0027, rtol=0.25)  # of a normal distribution
  np.testing.assert_array_equal(params['bias'], np.zeros(128))


@pytest.mark.parametrize(
  ('module', 'inputs', 'bound'),
  [
    (layers.dense(512, name='dense'), (1, 48), 0.144338),  # 1 / sqrt(48)
    (layers.conv(64, 3, name='c', kernel_init=layers.torch_default), (1, 4, 4, 16), 1 / 12),
  ],
  ids=['dense', 'conv'],
)
def test_pytorchs_default_weights_are_uniform_within_one_over_the_root_of_fan_in(
  module, inputs, bound
):
  kernel = np.asarray(_initialize(module, jnp.zeros(inputs))['kernel'])
  assert 0.99 * bound < np.abs(kernel).max() <= 1.00001 * bound
  np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)
  np.testing.assert_allclose(kernel.mean(), 0, atol=0.03 * bound)


def test_dense_starts_with_zero_bias():
  params = _initialize(layers.dense(7, name='dense'), jnp.zeros((1, 3)))
  np.testing.assert_array_equal(params['bias'], np.zeros(7))
