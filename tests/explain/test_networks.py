"""Explanations of a user's own Flax network, with mechanisms of the library inside."""

import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_flax import UserError, create_model, explain, layers
from attn_flax.attention import CBAM, ECA, NonLocal
from attn_flax.explain import perturbation
from attn_flax.explain.networks import evaluation_mode

pytestmark = pytest.mark.usefixtures('quick_compilation')

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 12, 3)).astype(np.float32)
LABELS = np.array([1, 2])
CLASSES = 4


def body(x, train, width=8):
  """Two convolutions, the first under ECA and the second under CBAM: [N, 8, 6, 8]."""
  x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(width, (3, 3))(x)))
  x = ECA(name='eca')(x, train=train)
  x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
  return CBAM(ratio=2, name='cbam')(x, train=train)


class Own(nn.Module):
  """A user's network: no field gives the number of classes or stages."""

  @nn.compact
  def __call__(self, images, train=False):
    return nn.Dense(CLASSES)(body(images, train).mean((1, 2)))


class Plain(nn.Module):
  """A network without an argument for evaluation mode."""

  @nn.compact
  def __call__(self, images):
    return nn.Dense(CLASSES)(body(images, train=False).mean((1, 2)))


class Deterministic(nn.Module):
  """A network with Flax's other name for this argument, which must be given."""

  @nn.compact
  def __call__(self, images, *, deterministic):
    x = body(images, train=not deterministic)
    return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=deterministic)(x).mean((1, 2)))


class Tapped(nn.Module):
  """A network that names two feature maps."""

  @nn.compact
  def __call__(self, images, train=False):
    x = layers.tap(self, 'stage1', nn.relu(nn.Conv(5, (3, 3))(images)))
    x = layers.tap(self, 'stage2', body(x, train))
    return nn.Dense(CLASSES)(nn.Conv(3, (1, 1))(x).mean((1, 2)))


class Around(nn.Module):
  """A head on a network of the library, which names the stages."""

  backbone: nn.Module

  @nn.compact
  def __call__(self, images, train=False):
    return nn.Dense(CLASSES)(self.backbone(images, train=train)['stage2'].mean((1, 2)))


SMALL = {'depths': (1, 1), 'widths': (4, 8), 'stem': 'cifar', 'num_classes': None}
# Each with the (height, width) of its last feature map.
NETWORKS = {
  'own': (Own(), (8, 6)),
  'plain': (Plain(), (8, 6)),
  'deterministic': (Deterministic(), (8, 6)),
  'tapped': (Tapped(), (8, 6)),
  'around': (
    Around(create_model('resnet20', attention='cbam', attention_kwargs={'ratio': 2}, **SMALL)),
    (8, 6),
  ),
}
METHODS = {
  **{name: getattr(explain, name) for name in ('grad_cam', 'hires_cam', 'layer_cam')},
  'grad_cam_plus_plus': explain.grad_cam_plus_plus,
  'integrated_gradients': functools.partial(explain.integrated_gradients, steps=2),
  'smooth_grad': functools.partial(explain.smooth_grad, key=jax.random.key(0), samples=2),
  'occlusion': functools.partial(explain.occlusion, patch=8, stride=8),
}


@functools.cache
def made(name):
  model, size = NETWORKS[name]
  variables = model.init(jax.random.key(0), IMAGES[:1], **evaluation_mode(model))
  return model, variables, size


@pytest.mark.parametrize('name', NETWORKS)
def test_every_function_explains_every_network(name):
  model, variables, size = made(name)
  for method, function in METHODS.items():
    maps = function(model, variables, IMAGES, LABELS)
    expected = size if 'cam' in method else IMAGES.shape[1:3]
    assert maps.shape == (2, *expected) and np.isfinite(maps).all(), method
  assert explain.activations(model, variables, IMAGES).shape[:3] == (2, *size)
  gates = explain.attention_maps(model, variables, IMAGES)
  assert {path.rsplit('/')[-1] for path in gates} == {'channel_gate', 'spatial_gate'}
  assert explain.own_map(model, variables, IMAGES).shape == (2, *size)
  scores = perturbation.faithfulness(model, variables, IMAGES, LABELS, maps, steps=2)
  assert all(np.isfinite(values).all() for values in scores.values())


@pytest.mark.parametrize('name', ['own', 'tapped'])
def test_the_last_feature_map_is_the_one_that_the_head_averages(name):
  """Only a mean and dense layers follow it, so that the map can be computed by hand."""
  model, variables, (height, width) = made(name)
  value, gradient = explain.activations_and_gradients(model, variables, IMAGES, LABELS)
  params = variables['params']
  weights = np.asarray(params['Dense_0']['kernel'])
  if name == 'tapped':
    (conv,) = [p['kernel'] for p in params.values() if p.get('kernel', weights).shape[:2] == (1, 1)]
    weights = conv[0, 0] @ weights
  expected = np.broadcast_to(weights[:, LABELS].T[:, None, None] / (height * width), value.shape)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
  cam = np.maximum((np.asarray(value) * expected).sum(-1), 0)
  np.testing.assert_allclose(
    explain.grad_cam(model, variables, IMAGES, LABELS), cam, rtol=1e-4, atol=1e-6
  )


def test_stages_are_those_that_the_network_names():
  model, variables, _ = made('tapped')
  assert explain.activations(model, variables, IMAGES, stage=1).shape == (2, 16, 12, 5)
  assert explain.grad_cam(model, variables, IMAGES, LABELS, stage=1).shape == (2, 16, 12)
  model, variables, _ = made('around')
  assert explain.grad_cam(model, variables, IMAGES, LABELS, stage=1).shape == (2, 16, 12)


def test_attention_between_positions_and_gates_of_the_network_itself():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
      x = NonLocal(ratio=1)(x=nn.Conv(4, (3, 3))(images), train=train)
      gate = nn.sigmoid(nn.Conv(1, (1, 1))(x))
      self.sow('intermediates', 'spatial_gate', gate[..., 0])
      return nn.Dense(CLASSES)((x * gate).mean((1, 2)))

  model = Net()
  variables = model.init(jax.random.key(0), IMAGES[:1])
  assert set(explain.attention_maps(model, variables, IMAGES)) == {'spatial_gate'}
  assert list(explain.attention_received(model, variables, IMAGES)) == ['NonLocal_0']
  np.testing.assert_array_equal(
    explain.own_map(model, variables, IMAGES),
    explain.attention_maps(model, variables, IMAGES)['spatial_gate'],
  )


class Vector(nn.Module):
  @nn.compact
  def __call__(self, images):
    return nn.Dense(CLASSES)(images.reshape(len(images), -1))


class Pair(nn.Module):
  @nn.compact
  def __call__(self, images):
    return Vector()(images), images


class Conditioned(nn.Module):
  @nn.compact
  def __call__(self, images, prompt, train=False):
    return Vector()(images) + prompt


class Field(nn.Module):
  mean: Any = None

  @nn.compact
  def __call__(self, images):
    return Vector()(images - self.mean)


@pytest.mark.parametrize(
  ('model', 'arguments', 'fields', 'message'),
  [
    (Vector(), (), {}, r"no submodule of Vector returns a feature map .*tap\(self, 'stage1', x\)"),
    (
      Own(),
      (),
      {'stage': 2},
      r'Own names no stages, so stage=2 is unknown; leave it out or name',
    ),
    (Tapped(), (), {'stage': 3}, 'stage=3 is not named by Tapped; choose one of 1, 2'),
    (Own(), (), {'stage': 0}, 'stage=0 is impossible'),
    (Pair(), (), {}, 'Pair returns .*tuple.* needs logits'),
    (Conditioned(), (0.0,), {}, 'Conditioned needs prompt beside the images; wrap it'),
    (Field(jnp.zeros(3)), (), {}, 'Field cannot be compiled'),
  ],
)
def test_networks_that_cannot_be_explained_are_refused(model, arguments, fields, message):
  variables = model.init(jax.random.key(0), IMAGES[:1], *arguments)
  with pytest.raises(UserError, match=message):
    explain.grad_cam(model, variables, IMAGES, LABELS, **fields)


def test_labels_outside_the_classes_are_named():
  model, variables, _ = made('own')
  with pytest.raises(UserError, match='labels hold 4,.* allowed: 0 to 3'):
    explain.grad_cam(model, variables, IMAGES, np.array([0, 4]))


def test_the_error_of_rollout_names_methods_of_the_command_line():
  model = create_model('resnet20', depths=(1,), widths=(8,), num_classes=3)
  images = jnp.zeros((1, 8, 8, 3))
  variables = model.init(jax.random.key(0), images, train=False)
  with pytest.raises(UserError) as caught:
    explain.attention_rollout(model, variables, images)
  named = re.search(r'take (\w+) or (\w+)$', str(caught.value)).groups()
  assert set(named) <= set(METHODS)
