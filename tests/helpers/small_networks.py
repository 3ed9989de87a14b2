"""What the tests of explanations share: images, methods, and networks of every kind."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attn_flax import explain, layers

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

  channels: int = 5

  @nn.compact
  def __call__(self, x, *, train):
    normal = nn.initializers.normal(1.0)
    a = nn.relu(nn.Dense(self.channels, name='stem')(x[:, ::2, ::2]))
    a = layers.tap(self, 'stage1', a)
    shape = (*a.shape[1:], CLASSES)
    linear = self.param('linear', normal, shape)
    square = self.param('square', normal, shape)
    return jnp.einsum('nhwc,hwck->nk', a, linear) + jnp.einsum('nhwc,hwck->nk', a**2, square)


class Linear(nn.Module):
  """Logits that are linear in the pixels."""

  @nn.compact
  def __call__(self, x, *, train):
    weights = self.param('weights', nn.initializers.normal(1.0), (*x.shape[1:], CLASSES))
    return jnp.einsum('nhwc,hwck->nk', x, weights)


def images(n=N, height=H, width=W, seed=0):
  return np.random.default_rng(seed).normal(size=(n, height, width, 3)).astype(np.float32)
