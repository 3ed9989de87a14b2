"""Localization scores against loops, for perfect and empty maps, and at chance."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_flax.errors import UserError
from attn_flax.explain import controls, localization
from attn_flax.explain.maps import box_mask, points_nowhere, upscale

THRESHOLDS = np.array([0.0, 0.2, 0.5, 0.8, 1.0])
SCORES = (localization.pointing_game, localization.energy_inside)


def best_iou(maps, masks):
  return localization.threshold_iou(maps, masks, THRESHOLDS).max(1)


@pytest.fixture
def masks():
  """Discs of several sizes at several places, [8, 12, 15]."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:12, :15]
  middles, radii = rng.uniform((2, 2), (10, 13), (8, 2)), rng.uniform(1.5, 5, 8)
  return jnp.asarray([np.hypot(y - a, x - b) < r for (a, b), r in zip(middles, radii, strict=True)])


@pytest.fixture
def maps(masks):
  """Signed maps that correlate with the masks."""
  noise = np.random.default_rng(1).normal(size=masks.shape)
  return jnp.asarray(noise + 1.0 * np.asarray(masks), jnp.float32)


def interpolate(row, place):
  low = int(np.floor(place))
  low, high = np.clip([low, low + 1], 0, len(row) - 1)
  return row[low] + (place - np.floor(place)) * (row[high] - row[low])


@pytest.mark.parametrize('size', [(8, 9), (3, 11)])
def test_upscaling_matches_loops(size):
  maps = np.random.default_rng(2).normal(size=(2, 3, 4)).astype(np.float32)
  expected = np.zeros((2, *size))
  for n in range(2):
    for i in range(size[0]):
      for j in range(size[1]):
        columns = [interpolate(row, (j + 0.5) * 4 / size[1] - 0.5) for row in maps[n]]
        expected[n, i, j] = interpolate(columns, (i + 0.5) * 3 / size[0] - 0.5)
  np.testing.assert_allclose(upscale(jnp.asarray(maps), *size), expected, rtol=1e-5, atol=1e-5)


def test_upscaling_keeps_constant_maps():
  maps = jnp.full((1, 3, 3), 0.1).at[0, 0].set(0)
  large = np.asarray(jax.jit(upscale, static_argnums=(1, 2))(maps, 37, 41))
  assert (large[0, :6] == 0).all() and (large[0, -18:] == np.float32(0.1)).all()


def test_scores_match_loops(maps, masks):
  """For signed maps, with loops over the pixels."""
  pointing, energy = (score(maps, masks) for score in SCORES)
  ious = localization.threshold_iou(maps, masks, THRESHOLDS)
  assert ious.shape == (8, 5)
  for n in range(8):
    values, mask = np.asarray(maps[n], np.float64), np.asarray(masks[n])
    peak = max(values[p] for p in np.ndindex(values.shape))
    hit = inside = total = 0.0
    both, either = np.zeros(5), np.zeros(5)
    for place in np.ndindex(values.shape):
      value, on_object = values[place], mask[place]
      hit += value == peak and on_object
      total += max(value, 0)
      inside += max(value, 0) * on_object
      both += (value >= THRESHOLDS * peak) & on_object
      either += (value >= THRESHOLDS * peak) | on_object
    assert pointing[n] == hit
    assert energy[n] == pytest.approx(inside / total, rel=1e-5)
    np.testing.assert_allclose(ious[n], both / either, rtol=1e-5)
  assert 0 < pointing.mean() < 1  # Otherwise the comparison shows little.


def test_scores_are_those_of_the_map_at_the_size_of_the_mask(masks):
  small = jnp.asarray(np.random.default_rng(3).normal(size=(8, 3, 4)), jnp.float32)
  large = upscale(small, 12, 15)
  for score in (*SCORES, best_iou):
    np.testing.assert_allclose(score(small, masks), score(large, masks), rtol=1e-5)


@pytest.mark.parametrize('score', [*SCORES, best_iou])
@pytest.mark.parametrize('scale', [1e-20, 1.0, 1e20])
def test_the_mask_itself_is_perfect(masks, score, scale):
  np.testing.assert_allclose(score(masks * scale, masks), 1, rtol=1e-6)
  np.testing.assert_array_equal(score(~masks * scale, masks) < 0.6, True)


@pytest.mark.parametrize('score', SCORES)
def test_a_constant_map_scores_at_chance(masks, score):
  """Rounding errors of scaling up do not change that."""
  share = masks.mean((1, 2))
  for maps in (jnp.full((8, 3, 4), 0.1), jnp.full((8, 12, 15), 1 / 3)):
    np.testing.assert_allclose(score(maps, masks), share, rtol=1e-5)


def test_random_maps_score_at_chance(masks):
  """The score is the mask's share of the image, within four standard errors."""
  repeats = 500
  maps = controls.random_maps(jax.random.key(0), 8 * repeats, 12, 15)
  share = np.asarray(masks.mean((1, 2)))
  many = jnp.tile(masks, (repeats, 1, 1))
  pointing, energy = (np.asarray(score(maps, many)).reshape(repeats, 8) for score in SCORES)
  error = np.sqrt(share * (1 - share) / repeats)
  assert (abs(pointing.mean(0) - share) < 4 * error).all()
  assert (abs(energy.mean(0) - share) < 4 * energy.std(0) / repeats**0.5).all()
  # A uniform distribution has the relative deviation 1/sqrt(3), for each of 180 pixels.
  spread = np.sqrt(share * (1 - share) / 3 / 180)
  np.testing.assert_allclose(energy.std(0), spread, rtol=0.2)


def binomial(n, p):
  return np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


def expected_iou(size, pixels, threshold):
  """Mean IoU of uniform noise with a mask of `size` of the pixels.

  Divided by the largest value, all other values are uniform in 0..1, and each is marked with a
  probability of 1 - threshold. The largest one may lie at any pixel and is always marked.
  """
  chance, total = 1 - threshold, 0.0
  for share, hit in ((size / pixels, 1), (1 - size / pixels, 0)):
    inside, outside = binomial(size - hit, chance), binomial(pixels - size - 1 + hit, chance)
    both = np.arange(len(inside))[:, None] + hit
    either = size + np.arange(len(outside)) + 1 - hit
    total += share * (inside[:, None] * outside * both / either).sum()
  return total


def test_the_iou_of_random_maps_is_that_of_chance(masks):
  """Within four standard errors."""
  repeats, thresholds = 500, np.array([0.2, 0.5, 0.9])
  maps = controls.random_maps(jax.random.key(2), 8 * repeats, 12, 15)
  ious = np.asarray(localization.threshold_iou(maps, jnp.tile(masks, (repeats, 1, 1)), thresholds))
  ious = ious.reshape(repeats, 8, 3)
  sizes = np.asarray(masks.sum((1, 2)))
  expected = [[expected_iou(int(size), 180, t) for t in thresholds] for size in sizes]
  assert (abs(ious.mean(0) - expected) < 4 * ious.std(0) / repeats**0.5).all()


@pytest.mark.parametrize('score', [*SCORES, best_iou])
def test_empty_and_broken_maps_are_misses(masks, score):
  maps = np.ones((8, 3, 3), np.float32)
  maps[0], maps[1], maps[2, 0, 0], maps[3, 1, 1], maps[4, 2, 2] = 0, -1, np.nan, np.inf, -np.inf
  np.testing.assert_array_equal(points_nowhere(maps), np.arange(8) < 5)
  actual = np.asarray(score(jnp.asarray(maps), masks))
  assert (actual[:5] == 0).all() and (actual[5:] > 0).all()


@pytest.mark.parametrize('score', [*SCORES, best_iou])
def test_a_map_without_positive_values_at_the_size_of_the_mask_is_a_miss(score):
  """After scaling up, a single positive value among negative ones may be below 0."""
  small = jnp.full((1, 3, 3), -10.0).at[0, 1, 1].set(1)
  assert upscale(small, 6, 6).max() < 0 < small.max()
  mask = jnp.zeros((1, 6, 6), bool).at[0, :2].set(True)
  assert score(small, mask) == 0
  # At a size where the value stays positive, it is a hit.
  middle = jnp.zeros((1, 9, 9), bool).at[0, 3:6, 3:6].set(True)
  assert score(small, middle) > 0


@pytest.mark.parametrize('score', [*SCORES, best_iou])
def test_an_image_with_an_empty_mask_has_no_score(maps, masks, score):
  masks = masks.at[2].set(False)
  np.testing.assert_array_equal(np.isnan(score(maps, masks)), np.arange(8) == 2)


def test_tolerance_of_the_pointing_game():
  """The maximum counts up to that Euclidean distance from the object."""
  mask = np.zeros((1, 20, 24), bool)
  mask[0, 10, 12] = True
  places = list(np.ndindex(20, 24))
  maps = jnp.asarray(np.eye(480, dtype=np.float32).reshape(480, 20, 24))
  for tolerance in (1, 3):
    actual = localization.pointing_game(maps, jnp.tile(mask, (480, 1, 1)), tolerance=tolerance)
    expected = [(y - 10) ** 2 + (x - 12) ** 2 <= tolerance**2 for y, x in places]
    np.testing.assert_array_equal(actual, np.array(expected, np.float32))


def test_boxes():
  boxes = jnp.array([[0, 0, 1, 1], [0.25, 0.5, 0.75, 0.625], [0, 0, 0, 0], [0.1, 0.1, 0.14, 0.9]])
  masks = np.asarray(box_mask(boxes, 4, 8))
  expected = np.zeros((4, 4, 8), bool)
  expected[0] = True
  expected[1, 1:3, 4] = True
  expected[3, 0, 1:7] = True
  np.testing.assert_array_equal(masks, expected)


def test_best_fixed_map_wins_the_pointing_game_among_fixed_maps(masks):
  """Of all maps that point at one pixel, none scores better than the mean mask."""
  best = jnp.tile(controls.best_fixed_map(masks), (8, 1, 1))
  reached = localization.pointing_game(best, masks).mean()
  points = jnp.asarray(np.repeat(np.eye(180, dtype=np.float32), 8, 0).reshape(-1, 12, 15))
  others = localization.pointing_game(points, jnp.tile(masks, (180, 1, 1))).reshape(180, 8).mean(1)
  assert reached == pytest.approx(others.max()) and others.min() < reached < 1


def test_controls():
  hill = np.asarray(controls.centered_gaussian(9, 15, 0.25))
  assert hill.argmax() == 4 * 15 + 7 and hill.max() == 1
  np.testing.assert_allclose(hill, hill[::-1, ::-1], rtol=1e-6)
  # One standard deviation from the center, on either axis.
  wide = np.asarray(controls.centered_gaussian(101, 41, 20 / 101))
  assert wide[50 + 20, 20] == pytest.approx(np.exp(-0.5), rel=1e-5)
  assert controls.random_maps(jax.random.key(1), 3, 4, 5).shape == (3, 4, 5)


@pytest.mark.parametrize(
  ('call', 'text'),
  [
    (lambda: localization.energy_inside(jnp.ones((2, 9, 3)), jnp.ones((2, 4, 4), bool)), '4x4'),
    (lambda: localization.energy_inside(jnp.ones((2, 3, 3)), jnp.ones((3, 4, 4), bool)), '3, 4, 4'),
    (lambda: localization.energy_inside(jnp.ones((2, 3, 3)), jnp.ones((2, 4, 4))), 'float32'),
    (
      lambda: localization.pointing_game(jnp.ones((1, 3, 3)), jnp.ones((1, 4, 4), bool), -1),
      'tolerance=-1',
    ),
    (lambda: controls.centered_gaussian(4, 4, 0), 'sigma=0'),
    (lambda: controls.best_fixed_map(jnp.ones((0, 4, 4), bool)), '0, 4, 4'),
  ],
)
def test_what_does_not_fit_is_refused(call, text):
  with pytest.raises(UserError, match=text):
    call()
