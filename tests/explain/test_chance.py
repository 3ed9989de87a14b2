"""Random numbers per image: a randomized explanation is the same alone and in any batch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_flax import explain
from attn_flax.commands.explain import METHODS
from attn_flax.explain import chance, controls, perturbation

pytestmark = pytest.mark.usefixtures('quick_compilation')

KEY = jax.random.key(3)
N, SIZE = 5, 8


class Curved(nn.Module):
  """Logits that are not linear, so that noise changes their gradients."""

  num_classes: int = 3

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(self.num_classes)(nn.tanh(nn.Dense(7)(x.reshape(len(x), -1))))


MODEL = Curved()
IMAGES = np.random.default_rng(0).normal(size=(N, SIZE, SIZE, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 1, 0])
VARIABLES = MODEL.init(jax.random.key(1), IMAGES[:1], train=False)


def flat(function):
  """A score of constant maps, so that the random order decides everything."""
  return lambda x, y: function(MODEL, VARIABLES, x, y, jnp.zeros((len(x), SIZE, SIZE)))


# Functions with random numbers: (images, labels) -> a pytree of arrays [N, ...].
RANDOMIZED = {
  'smooth_grad': functools.partial(explain.smooth_grad, MODEL, VARIABLES, key=KEY, samples=3),
  'smooth_grad of the command': functools.partial(METHODS['smooth_grad'], MODEL, VARIABLES),
  'insertion_deletion': flat(explain.insertion_deletion),
  'insertion_deletion with a key': flat(functools.partial(explain.insertion_deletion, key=KEY)),
  'road': flat(explain.road),
  'road with a key': flat(functools.partial(explain.road, key=KEY)),
  'faithfulness': flat(perturbation.faithfulness),
  'random_maps': lambda x, y: controls.random_maps(
    KEY, len(x), 4, 5, positions=chance.image_numbers(x)
  ),
}


def same(found, expected):
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', RANDOMIZED)
def test_an_image_has_the_same_result_alone_in_any_batch_at_any_place_padded_or_not(name):
  draw = RANDOMIZED[name]
  whole = jax.tree.map(np.asarray, draw(IMAGES, LABELS))
  for i in range(N):
    same(draw(IMAGES[i : i + 1], LABELS[i : i + 1]), jax.tree.map(lambda y: y[[i]], whole))  # noqa: B023
  order = np.array([3, 0, 4, 2, 1])
  same(draw(IMAGES[order], LABELS[order]), jax.tree.map(lambda y: y[order], whole))
  for size, pad in ((2, False), (3, False), (4, True), (8, True)):
    same(explain.in_batches(draw, IMAGES, LABELS, batch_size=size, pad=pad), whole)


@pytest.mark.parametrize('name', RANDOMIZED)
def test_the_result_is_the_same_where_the_program_normalizes_the_image(name):
  """The command does so; in another program the image may differ in its last bits."""
  pixels = np.random.default_rng(1).integers(0, 256, IMAGES.shape, np.uint8)
  mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
  normalize = lambda x: (jnp.asarray(x, jnp.float32) / 255 - mean) / std  # noqa: E731
  draw = RANDOMIZED[name]
  inside = jax.jit(lambda x, y: draw(normalize(x), y))
  before = draw(np.asarray(normalize(pixels)), LABELS)
  same(inside(pixels, LABELS), before)
  same(inside(pixels[2:3], LABELS[2:3]), jax.tree.map(lambda y: y[2:3], before))


def test_other_images_have_other_random_numbers():
  numbers = np.asarray(chance.image_numbers(IMAGES))
  assert len(set(numbers.tolist())) == N and numbers.dtype == np.uint32
  pixels = np.zeros((400, SIZE, SIZE, 3), np.uint8)
  pixels.reshape(400, -1)[np.arange(1, 192), np.arange(1, 192)] = 1  # One pixel, one level.
  pixels[192:] = np.random.default_rng(2).integers(0, 256, pixels[192:].shape)
  assert len(set(np.asarray(chance.image_numbers(pixels)).tolist())) == 400
  maps = controls.random_maps(KEY, N, 4, 4, positions=numbers)
  assert len(np.unique(maps.reshape(N, -1), axis=0)) == N


def test_every_function_that_takes_a_key_is_tested():
  import inspect

  modules = (explain, perturbation, controls)
  drawing = {
    name
    for module in modules
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if {'key', 'positions'} & inspect.signature(function).parameters.keys() and name[0] != '_'
  }
  assert drawing - {'keys_of', 'check_key'} == {name.split()[0] for name in RANDOMIZED}
