"""Every explanation on every kind of network: shapes, types, memory, and mistakes."""

import functools

import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import CAMS, LABELS, NETWORKS, PIXELS, H, N, Tiny, W, images

from attn_flax import UserError, create_model, explain

pytestmark = pytest.mark.usefixtures('quick_compilation')


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
    ({'stage': 0}, 'stage=0 .* from 1 to'),
    ({'stage': 2}, 'stage=2 is not named by Tiny; choose one of 1'),
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


@pytest.mark.parametrize('stage', [0, 3])
def test_a_network_of_the_library_says_how_many_stages_it_has(stage, made):
  model, variables = made('basic')
  with pytest.raises(UserError, match=f'stage={stage} is impossible; .* from 1 to 2'):
    explain.activations(model, variables, images(), stage=stage)


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
