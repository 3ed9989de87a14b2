"""Class activation maps against their definitions."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import CAMS, LABELS, H, N, Tiny, W, images

from attn_flax import explain

pytestmark = pytest.mark.usefixtures('quick_compilation')


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
