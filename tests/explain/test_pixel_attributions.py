"""Attributions to pixels, by gradients and by occlusion, against their definitions."""

import functools

import chex
import jax
import numpy as np
import pytest
from small_networks import LABELS, H, Linear, N, Tiny, W, images

from attn_flax import explain
from attn_flax.explain import chance

pytestmark = pytest.mark.usefixtures('quick_compilation')


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
