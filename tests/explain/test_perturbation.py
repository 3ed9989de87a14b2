"""Perturbation scores of a linear network, against NumPy; imputation against a dense solution."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_flax.errors import UserError
from attn_flax.explain import chance, controls, imputation, perturbation

pytestmark = pytest.mark.usefixtures('quick_compilation')

KEY = jax.random.key(7)


def keys(n, key=KEY):
  return chance.keys_of(key, np.arange(n), n)


class Linear(nn.Module):
  """Logits that are sums over the pixels."""

  num_classes: int = 3

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


@pytest.fixture(scope='module')
def case():
  """A network, variables, images [4, 6, 5, 3], labels and each pixel's part of the logit."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(4, 6, 5, 3)).astype(np.float32)
  labels = np.array([0, 2, 1, 2])
  kernel = rng.normal(size=(90, 3)).astype(np.float32) / 3
  variables = {'params': {'Dense_0': {'kernel': kernel, 'bias': np.ones(3, np.float32)}}}
  pull = kernel[:, labels].T - kernel.mean(1)
  maps = (images * pull.reshape(images.shape)).sum(-1)
  return Linear(), variables, jnp.asarray(images), jnp.asarray(labels), jnp.asarray(maps)


def probability(case, images):
  """Probability of the label, in double precision."""
  _, variables, _, labels, _ = case
  dense = variables['params']['Dense_0']
  logits = np.asarray(images, np.float64).reshape(4, -1) @ dense['kernel'] + dense['bias']
  powers = np.exp(logits - logits.max(1, keepdims=True))
  return (powers / powers.sum(1, keepdims=True))[np.arange(4), labels]


def pixels_by_relevance(values):
  return sorted(np.ndindex(values.shape), key=lambda place: -values[place])


def blurred(image, sigma):
  """The weighted mean over the pixels at most two sigma away along each axis."""
  height, width, _ = image.shape
  result = np.zeros(image.shape)
  for y, x in np.ndindex(height, width):
    total = 0.0
    for i, j in np.ndindex(height, width):
      if abs(i - y) <= 2 * sigma and abs(j - x) <= 2 * sigma:
        weight = np.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * sigma**2))
        result[y, x] += weight * image[i, j]
        total += weight
    result[y, x] /= total
  return result


def neighbors(y, x, height, width):
  """Places and weights of the neighbors in the image."""
  for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
    if 0 <= y + dy < height and 0 <= x + dx < width:
      yield (y + dy, x + dx), 1 / 12 if dy and dx else 1 / 6


def solved(image, removed):
  """Solves the dense system in which each removed pixel is the weighted mean of its neighbors."""
  height, width, channels = image.shape
  places = [place for place in np.ndindex(height, width) if removed[place]]
  index = {place: row for row, place in enumerate(places)}
  matrix, side = np.eye(len(places)), np.zeros((len(places), channels))
  for place, row in index.items():
    around = list(neighbors(*place, height, width))
    total = sum(weight for _, weight in around)
    for other, weight in around:
      if other in index:
        matrix[row, index[other]] -= weight / total
      else:
        side[row] += weight / total * image[other]
  result = np.array(image, np.float64)
  result[removed] = np.linalg.solve(matrix, side)
  return result


def test_insertion_and_deletion_match_loops(case):
  """With four steps, which do not divide the 30 pixels."""
  images, maps = case[2], np.asarray(case[4])
  actual = perturbation.insertion_deletion(*case, key=KEY, steps=4, sigma=1.0)
  start = np.stack([blurred(np.asarray(image, np.float64), 1.0) for image in images])
  counts = [0, 8, 15, 22, 30]
  expected = {'insertion': [], 'deletion': []}
  for count in counts:
    inserted, deleted = start.copy(), np.array(images, np.float64)
    for n in range(4):
      for place in pixels_by_relevance(maps[n])[:count]:
        inserted[(n, *place)] = images[(n, *place)]
        deleted[(n, *place)] = 0
    expected['insertion'].append(probability(case, inserted))
    expected['deletion'].append(probability(case, deleted))
  for name, points in expected.items():
    curve = np.array(points).T
    np.testing.assert_allclose(actual[f'{name}_curve'], curve, rtol=1e-5)
    area = sum(
      (curve[:, i] + curve[:, i + 1]) / 2 * (counts[i + 1] - counts[i]) / 30 for i in range(4)
    )
    np.testing.assert_allclose(actual[name], area, rtol=1e-5)


def test_curves_begin_and_end_at_known_probabilities(case):
  """Deleting nothing or inserting all gives the image; deleting all leaves the bias."""
  scores = perturbation.insertion_deletion(*case, key=KEY)
  whole = probability(case, case[2])
  assert scores['insertion_curve'].shape == scores['deletion_curve'].shape == (4, 11)
  np.testing.assert_allclose(scores['deletion_curve'][:, 0], whole, rtol=1e-5)
  np.testing.assert_allclose(scores['insertion_curve'][:, -1], whole, rtol=1e-5)
  np.testing.assert_allclose(scores['deletion_curve'][:, -1], 1 / 3, rtol=1e-5)


def test_true_contributions_beat_random_and_opposite_maps(case):
  """In a linear network they are the best order."""
  *network, maps = case
  insertion_deletion = functools.partial(perturbation.insertion_deletion, *network, key=KEY)
  noise = [controls.random_maps(jax.random.key(seed), 4, 6, 5) for seed in range(5)]
  best, worst = insertion_deletion(maps), insertion_deletion(-maps)
  for other in map(insertion_deletion, noise):
    assert (worst['deletion'] > other['deletion']).all()
    assert (other['deletion'] > best['deletion']).all()
    assert (worst['insertion'] < other['insertion']).all()
    assert (other['insertion'] < best['insertion']).all()


def test_equal_values_go_in_random_order():
  """No place is preferred, and the key decides the order."""
  maps = jnp.full((2000, 4, 3), 0.1)
  places = np.asarray(perturbation._ranks(keys(2000), maps, (4, 3)))
  assert (np.sort(places.reshape(2000, -1), 1) == np.arange(12)).all()
  error = (12**2 - 1) / 12 / 2000  # The variance of the mean of uniform ranks.
  assert (abs(places.mean(0) - 5.5) < 4 * error**0.5).all()
  np.testing.assert_array_equal(places, perturbation._ranks(keys(2000), maps, (4, 3)))
  other = perturbation._ranks(keys(2000, jax.random.key(8)), maps, (4, 3))
  assert (places != other).any()


def test_only_equal_values_are_shuffled():
  rng = np.random.default_rng(1)
  maps = jnp.asarray(rng.integers(0, 4, (50, 5, 4)), jnp.float32)
  places = np.asarray(perturbation._ranks(keys(50), maps, (5, 4))).reshape(50, -1)
  in_order = np.take_along_axis(np.asarray(maps).reshape(50, -1), places.argsort(1), axis=1)
  assert (np.diff(in_order, axis=1) <= 0).all()


@pytest.mark.parametrize('share', [0.1, 0.5, 0.9, 0.99])
def test_imputation_matches_a_dense_solution(share):
  """For scattered pixels, also at the border."""
  rng = np.random.default_rng(2)
  images = rng.normal(size=(3, 20, 17, 2)).astype(np.float32)
  removed = rng.random((3, 20, 17)) < share
  actual = np.asarray(jax.jit(imputation.impute)(images, removed))
  for n in range(3):
    np.testing.assert_allclose(actual[n], solved(images[n], removed[n]), atol=2e-4)
  np.testing.assert_array_equal(actual[~removed], images[~removed])


def test_imputation_of_large_holes():
  """One image keeps only a corner, one keeps all pixels, and one is 0 around its hole."""
  images = np.random.default_rng(3).normal(size=(4, 24, 24, 3)).astype(np.float32)
  removed = np.zeros((4, 24, 24), bool)
  removed[0] = True
  removed[0, :2, :2] = False
  removed[1, 4:20, 2:22] = True
  removed[3, 8:16, 8:16] = True
  images[3, 4:20, 4:20] = 0
  actual = np.asarray(jax.jit(imputation.impute)(images, removed))
  for n in range(4):
    np.testing.assert_allclose(actual[n], solved(images[n], removed[n]), atol=5e-4)


def test_imputation_keeps_constants_and_does_not_depend_on_removed_pixels():
  rng = np.random.default_rng(4)
  removed = rng.random((2, 9, 8)) < 0.6
  images = np.full((2, 9, 8, 1), 0.7, np.float32)
  np.testing.assert_allclose(imputation.impute(images, removed), 0.7, rtol=1e-5)
  images[removed] = 1e6
  np.testing.assert_allclose(imputation.impute(images, removed), 0.7, rtol=1e-5)


def test_road_matches_loops(case):
  """Without noise, on 30 pixels."""
  images, maps = np.asarray(case[2]), np.asarray(case[4])
  actual = perturbation.road(*case, key=KEY, shares=(0.2, 0.5, 0.9), noise=0.0)
  expected = {'morf': [], 'lerf': []}
  for count in (6, 15, 27):
    for name in expected:
      filled = np.zeros(images.shape)
      for n in range(4):
        order = pixels_by_relevance(maps[n] if name == 'morf' else -maps[n])
        removed = np.zeros((6, 5), bool)
        for place in order[:count]:
          removed[place] = True
        filled[n] = solved(images[n], removed)
      expected[name].append(probability(case, filled))
  for name, points in expected.items():
    np.testing.assert_allclose(actual[name], np.array(points).T, rtol=1e-3)
  combined = (np.array(expected['lerf']) - expected['morf']).mean(0) / 2
  np.testing.assert_allclose(actual['road'], combined, rtol=1e-3, atol=1e-5)
  assert (actual['road'] > 0.05).all()  # The map is the true one.


def test_road_of_the_opposite_map_changes_its_sign(case):
  *network, maps = case
  road = functools.partial(perturbation.road, *network, key=KEY, shares=(0.3, 0.6))
  there, back = road(maps), road(-maps)
  np.testing.assert_allclose(there['road'], -back['road'], rtol=1e-5)
  np.testing.assert_allclose(there['morf'], back['lerf'], rtol=1e-5)


def test_noise_of_road(case):
  """In images of 0, the log odds have the deviation of a mean over noise."""

  class Total(nn.Module):
    """The log odds of class 0 are the mean over the image."""

    num_classes: int = 2

    def __call__(self, x, *, train):
      return jnp.stack([x.mean((1, 2, 3)), jnp.zeros(len(x))], -1)

  images = jnp.zeros((400, 6, 5, 3))
  maps = controls.random_maps(KEY, 400, 6, 5)
  scores = perturbation.road(
    Total(),
    {},
    images,
    jnp.zeros(400, int),
    maps,
    key=KEY,
    shares=(0.5,),
    noise=0.4,
    positions=np.arange(400),  # Otherwise the images, which are equal, would share their noise.
  )
  for name in ('morf', 'lerf'):
    odds = np.log(scores[name] / (1 - scores[name]))
    # 45 of the 90 values are noise.
    assert odds.std() == pytest.approx(0.4 * 45**0.5 / 90, rel=4 / 800**0.5)
    assert abs(odds.mean()) < 4 * odds.std() / 20


def test_without_a_key_every_map_gets_the_same_order(case):
  flat = jnp.zeros((4, 3, 3))
  first, again, keyed = (
    perturbation.insertion_deletion(*case[:4], maps, key=key)['deletion']
    for maps, key in ((flat, None), (flat + 1, None), (flat, KEY))
  )
  np.testing.assert_array_equal(first, again)
  assert (first != keyed).any()


@pytest.mark.parametrize('function', [perturbation.insertion_deletion, perturbation.road])
def test_random_numbers_are_those_of_the_image_unless_positions_are_given(case, function):
  """Equal images share them; with different positions, no two images do."""
  model, variables, images, labels, _ = case
  flat = jnp.zeros((4, 6, 5))
  call = functools.partial(function, model, variables, key=KEY)
  same = call(images[:1].repeat(4, 0), labels[:1].repeat(4), flat)
  numbered = call(images[:1].repeat(4, 0), labels[:1].repeat(4), flat, positions=np.arange(4))
  for name in {'morf', 'deletion'} & same.keys():
    rows = np.asarray(same[name]).reshape(4, -1)
    np.testing.assert_allclose(rows, rows[:1].repeat(4, 0), rtol=1e-5)
    assert len(np.unique(np.asarray(numbered[name]).reshape(4, -1), axis=0)) == 4


def test_images_in_half_precision_are_scored_in_single(case):
  model, variables, images, labels, maps = case
  half = images.astype(jnp.bfloat16)
  found = perturbation.faithfulness(model, variables, half, labels, maps)
  expected = perturbation.faithfulness(model, variables, half.astype(jnp.float32), labels, maps)
  for name, values in expected.items():
    np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize('function', [perturbation.insertion_deletion, perturbation.road])
def test_maps_of_any_resolution_inside_a_compiled_function(case, function):
  model, variables, images, labels, _ = case
  small = controls.random_maps(KEY, 4, 2, 3)
  call = functools.partial(function, model, key=KEY)
  compiled = jax.jit(call)(variables, images, labels, small)
  for name, value in call(variables, images, labels, small).items():
    np.testing.assert_allclose(compiled[name], value, rtol=1e-4, atol=1e-6)
    assert value.dtype == jnp.float32


@pytest.mark.parametrize(
  ('function', 'options', 'text'),
  [
    (perturbation.insertion_deletion, {'steps': 0}, 'steps=0'),
    (perturbation.insertion_deletion, {'sigma': 0}, 'sigma=0'),
    (perturbation.road, {'shares': (0.5, 1.0)}, 'shares'),
    (perturbation.road, {'shares': ()}, 'shares'),
    (perturbation.road, {'shares': (0.001,)}, '30 pixels'),
  ],
)
def test_options_that_do_not_fit_are_refused(case, function, options, text):
  with pytest.raises(UserError, match=text):
    function(*case, key=KEY, **options)


def test_maps_that_do_not_fit_are_refused(case):
  *network, maps = case
  with pytest.raises(UserError, match=r'positions of shape \(3,\)'):
    perturbation.road(*network, maps, key=KEY, positions=np.arange(3))
  with pytest.raises(UserError, match='3 maps'):
    perturbation.road(*network, maps[:3], key=KEY)
  with pytest.raises(UserError, match='6x5'):
    perturbation.road(*network, jnp.ones((4, 7, 5)), key=KEY)
