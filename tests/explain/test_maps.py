"""Class activation maps, attributions to pixels and occlusion, against their definitions."""

import functools
import itertools

import chex
import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from attn_flax import UserError, create_model, explain, layers
from attn_flax.explain import chance

pytestmark = pytest.mark.usefixtures('quick_compilation')

N, H, W, CLASSES = 3, 16, 24, 4
LABELS = np.array([1, 3, 0], np.int32)
CAMS = {
  name: getattr(explain, name)
  for name in ('grad_cam', 'grad_cam_plus_plus', 'hires_cam', 'layer_cam')
}
PIXELS = {
  'integrated_gradients': functools.partial(explain.integrated_gradients, steps=2),
  'smooth_grad': functools.partial(explain.smooth_grad, key=jax.random.key(5), samples=2),
  'occlusion': functools.partial(explain.occlusion, patch=16, stride=8),
}
# Each with the factor between the sides of the image and of the last feature map.
NETWORKS = {
  'basic': ('resnet18', {'depths': (1, 1), 'widths': (8, 16), 'stem': 'cifar'}, 2),
  'bottleneck': ('resnet50', {'depths': (1, 1), 'widths': (8, 16), 'stem': 'cifar'}, 2),
  'preact': ('wrn10_1', {'depths': (1, 1), 'widths': (8, 16)}, 2),
  'mnasnet': ('mnasnet_a1', {'depths': (1,) * 7, 'width_multiplier': 0.1, 'stem': 'cifar'}, 8),
  'vit': ('vit_tiny32', {'width': 8, 'depth': 2, 'heads': 2, 'mlp_width': 8}, 4),
}


class Tiny(nn.Module):
  """A stage with known gradients: logits = sum over a feature map A of `linear A + square A^2`."""

  num_classes: int = CLASSES
  num_stages: int = 1
  channels: int = 5

  @nn.compact
  def __call__(self, x, *, train):
    normal = nn.initializers.normal(1.0)
    a = nn.relu(nn.Dense(self.channels, name='stem')(x[:, ::2, ::2]))
    a = layers.tap(self, 'stage1', a)
    shape = (*a.shape[1:], self.num_classes)
    linear = self.param('linear', normal, shape)
    square = self.param('square', normal, shape)
    return jnp.einsum('nhwc,hwck->nk', a, linear) + jnp.einsum('nhwc,hwck->nk', a**2, square)


class Linear(nn.Module):
  """Logits that are linear in the pixels."""

  num_classes: int = CLASSES
  num_stages: int = 1

  @nn.compact
  def __call__(self, x, *, train):
    weights = self.param('weights', nn.initializers.normal(1.0), (*x.shape[1:], self.num_classes))
    return jnp.einsum('nhwc,hwck->nk', x, weights)


def images(n=N, height=H, width=W, seed=0):
  return np.random.default_rng(seed).normal(size=(n, height, width, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def made(randomized):
  """A function that makes a network by its name, and random variables for it."""

  def make(model):
    if isinstance(model, str):
      name, fields, _ = NETWORKS[model]
      model = create_model(name, num_classes=CLASSES, **fields)
    init = functools.partial(model.init, train=False)
    return model, randomized(jax.eval_shape(init, jax.random.key(0), images()))

  return make


def logits_of(model, variables, x, labels=LABELS):
  logits = model.apply(variables, x, train=False)
  return np.asarray(logits)[np.arange(len(labels)), labels]


# --- class activation maps


@pytest.mark.parametrize(('network', 'last'), [('basic', 'stage2_block1'), ('preact', 'last_norm')])
def test_the_last_stage_of_a_resnet_has_the_original_class_activation_map(network, last, made):
  """A mean over h * w positions and one dense layer follow it, whose weights weight the channels.

  So each gradient is weight / (h * w), the same everywhere, and the sum of the signed map is the
  logit without its bias. A ReLU ends the stage, in the block or after the last norm.
  """
  model, variables = made(network)
  x = images()
  logits, state = jax.jit(
    lambda v: model.apply(v, x, train=False, capture_intermediates=lambda m, _: m.name == last)
  )(variables)
  a = np.maximum(np.asarray(state['intermediates'][last]['__call__'][0], np.float64), 0)
  head = variables['params']['head']
  classical = np.einsum('nhwc,cn->nhw', a, np.asarray(head['kernel'])[:, LABELS])
  expected = classical / (a.shape[1] * a.shape[2])
  assert (expected < 0).any() and (expected > 0).any()

  for cam in (explain.grad_cam, explain.hires_cam):
    np.testing.assert_allclose(
      cam(model, variables, x, LABELS), np.maximum(expected, 0), rtol=1e-4, atol=1e-6
    )
  value, gradient = explain.activations_and_gradients(model, variables, x, LABELS)
  np.testing.assert_allclose(value, a, rtol=1e-5, atol=1e-6)
  signed = (value * gradient).sum(-1)
  np.testing.assert_allclose(signed, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    signed.sum((1, 2)) + head['bias'][LABELS],
    np.asarray(logits)[np.arange(N), LABELS],
    rtol=1e-4,
    atol=1e-5,
  )


def _activations_and_gradients(variables, x):
  """Those of `Tiny` in double precision, with gradients by central differences."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables['params'])
  a = np.maximum(x[:, ::2, ::2] @ p['stem']['kernel'] + p['stem']['bias'], 0)

  def score(a, n):
    linear, square = p['linear'][..., LABELS[n]], p['square'][..., LABELS[n]]
    return (a * linear).sum() + (a**2 * square).sum()

  g = np.zeros_like(a)
  for n in range(len(a)):
    for at in itertools.product(*map(range, a.shape[1:])):
      step = np.zeros(a.shape[1:])
      step[at] = 1e-4
      g[n][at] = (score(a[n] + step, n) - score(a[n] - step, n)) / 2e-4
  return a, g


def _numpy_cams(a, g):
  """The papers' formulas for one image, with loops over the positions."""
  height, width, channels = a.shape
  maps = {name: np.zeros((height, width)) for name in CAMS}
  for c in range(channels):
    mean, plus = 0.0, 0.0
    for i, j in itertools.product(range(height), range(width)):
      mean += g[i, j, c] / (height * width)
      below = 2 * g[i, j, c] ** 2 + a[:, :, c].sum() * g[i, j, c] ** 3
      alpha = g[i, j, c] ** 2 / below if below else 0
      plus += alpha * max(g[i, j, c], 0)
    maps['grad_cam'] += mean * a[:, :, c]
    maps['grad_cam_plus_plus'] += plus * a[:, :, c]
    maps['hires_cam'] += g[:, :, c] * a[:, :, c]
    maps['layer_cam'] += np.maximum(g[:, :, c], 0) * a[:, :, c]
  return {name: np.maximum(value, 0) for name, value in maps.items()}


def test_the_four_rules_are_those_of_their_papers(made):
  model, variables = made(Tiny())
  x = images()
  a, g = _activations_and_gradients(variables, x)
  expected = [_numpy_cams(*pair) for pair in zip(a, g, strict=True)]
  for name, cam in CAMS.items():
    found = cam(model, variables, x, LABELS)
    chex.assert_shape(found, (N, H // 2, W // 2))
    np.testing.assert_allclose(found, [maps[name] for maps in expected], rtol=1e-3, atol=1e-4)
  # The rules differ, or the test would show nothing.
  assert len({round(float(maps[name].sum()), 3) for maps in expected[:1] for name in CAMS}) == 4


def test_gradients_at_an_early_stage_are_those_of_the_logit(made):
  """Compared along a direction, by finite differences through the rest of the network."""
  model, variables = made('basic')
  x = images()
  value, gradient = explain.activations_and_gradients(model, variables, x, LABELS, stage=1)
  chex.assert_shape((value, gradient), (N, H, W, 8))
  # Small enough that hardly any ReLU switches, large enough for single precision.
  direction = np.random.default_rng(2).normal(size=value.shape).astype(np.float32)

  @jax.jit
  def moved(step):
    added = {**variables, 'perturbations': {'stage1': step * direction}}
    return model.apply(added, x, train=False)[np.arange(N), LABELS]

  slope = (moved(1e-3) - moved(-1e-3)) / 2e-3
  np.testing.assert_allclose((gradient * direction).sum((1, 2, 3)), slope, rtol=0.02, atol=0.01)


@pytest.mark.parametrize('name', CAMS)
def test_where_nothing_supports_a_class_the_map_is_zero(name, made):
  model, variables = made(Tiny())
  params = dict(variables['params'])
  # Every position counts against class 0 and for class 1.
  linear = -jnp.abs(params['linear']).at[..., 1].multiply(-1)
  params |= {'linear': linear, 'square': jnp.zeros_like(params['square'])}
  x = images()
  cam = functools.partial(CAMS[name], model, {'params': params}, x)
  np.testing.assert_array_equal(cam(np.zeros(N, int)), np.zeros((N, H // 2, W // 2)))
  assert (cam(np.ones(N, int)) > 0).any()


# --- attributions to pixels


def test_integrated_gradients_add_up_to_the_difference_of_the_logits(made):
  model, variables = made('basic')
  x, baseline = images(), images(1, seed=9)[0]
  apply = jax.jit(functools.partial(model.apply, train=False))
  for base in (None, baseline):
    maps = explain.integrated_gradients(model, variables, x, LABELS, steps=64, baseline=base)
    chex.assert_shape(maps, (N, H, W))
    reference = np.broadcast_to(0 if base is None else base, x.shape)
    gain = (apply(variables, x) - apply(variables, reference))[np.arange(N), LABELS]
    np.testing.assert_allclose(maps.sum((1, 2)), gain, rtol=0.02, atol=0.02 * np.abs(gain).max())


@pytest.mark.parametrize('steps', [1, 3])
def test_pixel_attributions_of_a_linear_network_are_its_weights(steps, made):
  model, variables = made(Linear())
  x, color = images(), np.array([0.5, -1.0, 2.0], np.float32)
  weights = np.moveaxis(np.asarray(variables['params']['weights'])[..., LABELS], -1, 0)
  maps = explain.integrated_gradients(model, variables, x, LABELS, steps=steps, baseline=color)
  np.testing.assert_allclose(maps, ((x - color) * weights).sum(-1), rtol=1e-4, atol=1e-5)
  key = jax.random.key(steps)
  maps = explain.smooth_grad(model, variables, x, LABELS, key=key, samples=steps)
  np.testing.assert_allclose(maps, np.abs(weights).mean(-1), rtol=1e-4)


def test_smooth_grad_averages_gradients_around_the_image(made):
  """For a quadratic function, the mean gradient is that at the mean of the noisy copies."""
  model, variables = made(Tiny())
  x = images()
  smooth = functools.partial(explain.smooth_grad, model, variables, x, LABELS)
  gradient = jax.grad(lambda x: model.apply(variables, x, train=False)[np.arange(N), LABELS].sum())
  quiet = smooth(key=jax.random.key(0), samples=1, noise=0.0)
  np.testing.assert_allclose(quiet, np.abs(gradient(x)).mean(-1), rtol=1e-3, atol=1e-5)

  key = jax.random.key(1)
  total = 0
  numbers = chance.image_numbers(x)
  for sample in range(3):
    normal = np.stack(
      [
        jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, number), sample), (H, W, 3))
        for number in numbers
      ]
    )
    spread = np.ptp(x, axis=(1, 2, 3))[:, None, None, None]
    total += gradient(x + 0.2 * spread * normal) / 3
  noisy = smooth(key=key, samples=3, noise=0.2)
  np.testing.assert_allclose(noisy, np.abs(total).mean(-1), rtol=1e-3, atol=1e-4)
  assert not np.allclose(noisy, quiet, rtol=0.1)


@pytest.mark.parametrize(('patch', 'stride', 'fill'), [(5, 4, 0.0), (6, 6, (1.0, -2.0, 0.5))])
def test_occlusion_is_the_mean_drop_over_the_patches_on_a_pixel(patch, stride, fill, made):
  """The strides do not divide the image; the last row and column of patches end at its border."""
  model, variables = made('basic')
  x = images()
  apply = jax.jit(lambda x: jax.nn.softmax(model.apply(variables, x, train=False)))
  whole = np.asarray(apply(x))[np.arange(N), LABELS]
  total, count = np.zeros((N, H, W)), np.zeros((H, W))
  for i in sorted({*range(0, H - patch + 1, stride), H - patch}):
    for j in sorted({*range(0, W - patch + 1, stride), W - patch}):
      covered = x.copy()
      covered[:, i : i + patch, j : j + patch] = fill
      drop = whole - np.asarray(apply(covered))[np.arange(N), LABELS]
      total[:, i : i + patch, j : j + patch] += drop[:, None, None]
      count[i : i + patch, j : j + patch] += 1
  assert count.min() == 1 < count.max()
  found = explain.occlusion(model, variables, x, LABELS, patch=patch, stride=stride, fill=fill)
  np.testing.assert_allclose(found, total / count, rtol=1e-3, atol=1e-5)


# --- every method on every kind of network


def _shape(network, name):
  factor = NETWORKS[network][2]
  return (N, -(-H // factor), -(-W // factor)) if name in CAMS else (N, H, W)


@pytest.mark.parametrize(
  ('network', 'dtype'),
  [*((name, 'float32') for name in NETWORKS), ('basic', 'bfloat16'), ('vit', 'bfloat16')],
)
def test_each_method_has_its_shape_on_each_network(network, dtype, made):
  model, variables = made(network)
  model = model.clone(dtype=dtype)
  for name, method in {**CAMS, **PIXELS}.items():
    run = functools.partial(method, model)
    chex.assert_shape(
      shape := jax.eval_shape(run, variables, images(), LABELS), _shape(network, name)
    )
    assert shape.dtype == jnp.float32, name


def _assert_explains(network, method, name, made, dtype='float32'):
  model, variables = made(network)
  maps = np.asarray(method(model.clone(dtype=dtype), variables, images(), LABELS))
  assert maps.shape == _shape(network, name) and maps.dtype == np.float32
  assert np.isfinite(maps).all()
  # The weights of Grad-CAM++ may have any sign where A is negative, so that all maps may be zero.
  assert name == 'grad_cam_plus_plus' or (maps.max((1, 2)) > 0).any()


@pytest.mark.parametrize('network', ['preact', 'mnasnet', 'vit'])
def test_stages_without_a_final_relu_give_finite_maps(network, made):
  _assert_explains(network, explain.grad_cam_plus_plus, 'grad_cam_plus_plus', made)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', [*CAMS, *PIXELS])
@pytest.mark.parametrize('network', NETWORKS)
def test_each_method_explains_each_network(network, name, dtype, made):
  _assert_explains(network, {**CAMS, **PIXELS}[name], name, made, dtype)


@pytest.mark.parametrize('name', PIXELS)
def test_maps_of_images_in_half_precision_are_float32(name, made):
  """They are close to the maps of the same images in float32."""
  model, variables = made(Tiny())
  x = jnp.asarray(images(), jnp.bfloat16)
  found = PIXELS[name](model, variables, x, LABELS)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(
    found, PIXELS[name](model, variables, x.astype(jnp.float32), LABELS)
  )


# --- compilation and memory


@pytest.mark.parametrize('name', [*CAMS, *PIXELS])
def test_methods_may_be_called_inside_a_compiled_function(name, made):
  model, variables = made(Tiny())
  method = functools.partial({**CAMS, **PIXELS}[name], model)
  inside = jax.jit(lambda v, x, y: method(v, x, y))(variables, images(), LABELS)
  np.testing.assert_allclose(inside, method(variables, images(), LABELS), rtol=1e-5, atol=1e-6)


def _largest(jaxpr):
  """Size of the largest array in a traced program and the programs inside it."""
  sizes = [0]
  for equation in jaxpr.eqns:
    sizes += [v.aval.size for v in equation.outvars]
    sizes += [_largest(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params)]
  return max(sizes)


@pytest.mark.parametrize(
  ('method', 'few', 'many'),
  [
    (explain.integrated_gradients, {'steps': 2}, {'steps': 300}),
    (
      functools.partial(explain.smooth_grad, key=jax.random.key(0)),
      {'samples': 2},
      {'samples': 300},
    ),
    (explain.occlusion, {'patch': 16, 'stride': 16}, {'patch': 2, 'stride': 1}),
  ],
)
def test_memory_does_not_grow_with_the_number_of_passes(method, few, many, made):
  model, variables = made(Tiny())

  def largest(fields):
    run = functools.partial(method, model, **fields)
    return _largest(jax.make_jaxpr(run)(variables, images(), LABELS).jaxpr)

  assert 0 < largest(many) == largest(few)


# --- mistakes


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'stage': 0}, r'stage=0 .* from 1 to 1'),
    ({'stage': 2}, r'stage=2 .* from 1 to 1'),
    ({'labels': np.array([1, 4, 0])}, r'labels hold 4,.* allowed: 0 to 3'),
    ({'labels': np.array([1, -1, 0])}, r'labels hold -1,.* allowed: 0 to 3'),
    ({'labels': np.array([1, 2])}, r'labels of shape \(2,\) .* do not fit 3 images'),
    ({'images': np.zeros((N, H, W, 3), np.uint8)}, r'type uint8 .* normalized'),
    ({'images': np.zeros((H, W, 3), np.float32)}, r'shape \(16, 24, 3\)'),
    ({'method': explain.integrated_gradients, 'steps': 0}, 'steps=0 .* from 1 to'),
    (
      {'method': explain.integrated_gradients, 'baseline': np.zeros((W, H, 3))},
      r'baseline of shape \(24, 16, 3\) does not fit',
    ),
    ({'method': PIXELS['smooth_grad'], 'samples': 0}, 'samples=0 .* from 1 to'),
    ({'method': PIXELS['smooth_grad'], 'noise': -0.1}, 'noise=-0.1 .* from 0 to'),
    ({'method': explain.occlusion, 'patch': 17}, 'patch=17 .* from 1 to 16'),
    ({'method': explain.occlusion, 'patch': 4, 'stride': 5}, 'stride=5 .* from 1 to 4'),
    ({'method': explain.occlusion, 'fill': np.zeros(4)}, r'fill of shape \(4,\) does not fit'),
  ],
)
def test_mistakes_are_named(change, message, made):
  model, variables = made(Tiny())
  given = {'method': explain.grad_cam, 'images': images(), 'labels': LABELS} | change
  method, x, labels = (given.pop(key) for key in ('method', 'images', 'labels'))
  with pytest.raises(UserError, match=message):
    method(model, variables, x, labels, **given)


# --- data of any size


def test_batches_give_the_result_of_one_call_and_are_traced_once(made):
  model, variables = made(Tiny())
  x, labels = images(10), np.arange(10) % CLASSES
  traces = []

  @jax.jit
  def explained(x, labels):
    traces.append(x.shape)
    maps = explain.grad_cam(model, variables, x, labels)
    return {'map': maps, 'nothing': None, 'flag': maps.max((1, 2)) == 0}

  found = explain.in_batches(explained, x, labels, batch_size=4)
  assert traces == [(4, H, W, 3)]
  assert isinstance(found['map'], np.ndarray) and found['nothing'] is None
  chex.assert_trees_all_close(found, jax.device_get(explained(x, labels)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('batch_size', [1, 3, 5, 64])
def test_each_example_is_explained_once(batch_size):
  sizes = []

  def double(x):
    sizes.append(len(x))
    return 2 * x

  found = explain.in_batches(double, np.arange(5), batch_size=batch_size)
  np.testing.assert_array_equal(found, 2 * np.arange(5))
  assert set(sizes) == {min(batch_size, 5)}


def test_padded_calls_have_one_batch_size_for_data_of_any_length():
  sizes = []

  def double(x):
    sizes.append(len(x))
    return 2 * x

  for n in (3, 1, 4, 7):
    found = explain.in_batches(double, np.arange(n), batch_size=4, pad=True)
    np.testing.assert_array_equal(found, 2 * np.arange(n))
  assert sizes == [4] * 5


def test_batches_may_come_from_an_iterator():
  stream = ((np.arange(start, stop), np.ones(stop - start)) for start, stop in [(0, 4), (4, 6)])
  found = explain.in_batches(lambda x, y: x[:4] + y, stream)
  np.testing.assert_array_equal(found, 1 + np.arange(6))
  found = explain.in_batches(lambda x: (x, -x), iter([np.arange(3), np.arange(1)]))
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
    explain.in_batches(lambda *x: x[0], *arrays)
  with pytest.raises(UserError, match='batch_size=0'):
    explain.in_batches(lambda *x: x[0], np.zeros(3), batch_size=0)


@pytest.mark.parametrize(
  'labels',
  [[1, 2], (1, 2), range(1, 3), [1.0, 2.0], np.array([1.0, 2.0]), np.array([1, 2], np.uint8)],
)
def test_labels_may_be_given_in_every_plain_form(labels):
  model = create_model('resnet20', depths=(1,), widths=(8,), num_classes=4)
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  variables = model.init(jax.random.key(0), images, train=False)
  expected = explain.grad_cam(model, variables, images, np.array([1, 2], np.int32))
  assert np.array_equal(explain.grad_cam(model, variables, images, labels), expected)


@pytest.mark.parametrize(
  'labels',
  [[1.5, 2], ['1', '2'], None, 1, [[1], [2]], np.eye(4)[:2], [True, False], [-1, 2], [4, 0]],
)
def test_other_labels_are_refused_in_a_line(labels):
  model = create_model('resnet20', depths=(1,), widths=(8,), num_classes=4)
  images = np.zeros((2, 16, 16, 3), np.float32)
  variables = model.init(jax.random.key(0), images, train=False)
  with pytest.raises(UserError, match='^labels') as caught:
    explain.grad_cam(model, variables, images, labels)
  assert 'Tracer' not in str(caught.value)
