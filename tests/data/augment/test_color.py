"""Color operations against Pillow and plain Python, and the draws of the jitter."""

import colorsys
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import stats

from attn_flax.data.augment import color
from attn_flax.errors import UserError

STRENGTHS = {'brightness': 0.8, 'contrast': 0.8, 'saturation': 0.8, 'hue': 0.3}
color_jitter = jax.jit(color.color_jitter, static_argnames=(*STRENGTHS, 'random_order'))
random_gray = jax.jit(color.random_gray, static_argnames='probability')
FACTORS = np.array([0.0, 0.4, 1.0, 1.3, 3.0], np.float32)


def _images(count, height=7, width=5, channels=3):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def _hue_loop(image, shift):
  """One image [H, W, 3] with its hue shifted, by `colorsys`."""
  turned = np.empty(image.shape)
  for y, x in np.ndindex(image.shape[:2]):
    hue, saturation, value = colorsys.rgb_to_hsv(*(image[y, x] / 255))
    turned[y, x] = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
  return 255 * turned


def _loop(name, image, factor):
  """One image [H, W, C] of float64, brightened etc., pixel by pixel."""
  if name == 'hue':
    return _hue_loop(image, factor)
  grey = lambda pixel: 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]  # noqa: E731
  places = list(np.ndindex(image.shape[:2]))
  mean = sum(grey(image[place]) for place in places) / len(places)
  made = np.empty(image.shape)
  for place in places:
    zero = {'brightness': 0, 'contrast': mean, 'saturation': grey(image[place])}[name]
    made[place] = np.clip(zero + factor * (image[place] - zero), 0, 255)
  return made


@pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation'])
def test_changes_are_those_of_a_loop_and_of_pillow(name):
  images = _images(len(FACTORS))
  adjust = jax.jit(getattr(color, f'adjust_{name}'))
  exact = adjust(images.astype(np.float32), FACTORS)
  rounded = adjust(images, FACTORS)
  assert exact.dtype == np.float32 and rounded.dtype == np.uint8
  enhancer = {'saturation': 'Color'}.get(name, name.capitalize())
  for i, factor in enumerate(FACTORS):
    expected = _loop(name, images[i].astype(np.float64), float(factor))
    # The weights of red, green and blue are multiples of 1/65536.
    np.testing.assert_allclose(exact[i], expected, atol=0.01)
    np.testing.assert_allclose(rounded[i], np.round(exact[i]))
    pillow = getattr(ImageEnhance, enhancer)(Image.fromarray(images[i])).enhance(float(factor))
    # Pillow rounds the gray value, whose error is scaled by |1 - factor|, and truncates the result.
    tolerance = 1 + 0.5 * abs(1 - factor)
    assert np.abs(np.asarray(rounded[i], float) - np.asarray(pillow)).max() <= tolerance


def test_the_hue_turns_as_in_a_loop():
  shifts = np.array([-0.5, -0.21, 0.0, 1 / 3, 0.5], np.float32)
  images = _images(5)
  images[1, :3] = images[1, :3, :, :1]  # Gray pixels, and some of the corners of the cube.
  images[2, 0] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 0, 0]]
  turned = jax.jit(color.adjust_hue)(images.astype(np.float32), shifts)
  for i, shift in enumerate(shifts):
    np.testing.assert_allclose(turned[i], _hue_loop(images[i], float(shift)), atol=0.01)
  rounded = color.adjust_hue(images, shifts)
  assert rounded.dtype == np.uint8
  np.testing.assert_array_equal(rounded[2], images[2])
  np.testing.assert_array_equal(np.asarray(rounded[3])[..., [1, 2, 0]], images[3])


def test_gray_values_are_pillows():
  images = _images(4, 30, 20)
  for image, grey in zip(images, color.luma(jnp.asarray(images)), strict=True):
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(image).convert('L')))
  exact = color.luma(jnp.asarray(images, jnp.float32))
  np.testing.assert_allclose(exact[..., 0], images @ [0.299, 0.587, 0.114], atol=0.01)


def _factors(name, before, after):
  """The factor of each image, from one inner pixel of it; before and after [N, H, W, 3] float."""
  grey = before @ [0.299, 0.587, 0.114]
  red = before[:, 0, 0, 0]
  zero = {'brightness': 0 * red, 'contrast': grey.mean((1, 2)), 'saturation': grey[:, 0, 0]}[name]
  return (after[:, 0, 0, 0] - zero) / (red - zero)


@pytest.mark.parametrize(
  ('name', 'strength', 'low', 'high'),
  [
    ('brightness', 0.4, 0.6, 1.4),
    ('contrast', 0.3, 0.7, 1.3),
    ('saturation', 1.5, 0.0, 2.5),
  ],
)
def test_factors_are_uniform(name, strength, low, high):
  count = 2000
  # One pixel that no factor makes black or white, so that the factor can be computed from it.
  images = np.full((count, 2, 2, 3), (120.0, 90.0, 100.0), np.float32)
  images[:, 0, 1] = images[:, 1, 1] = 60
  made = color_jitter(jax.random.key(0), images, **{name: strength})
  factors = _factors(name, images.astype(float), np.asarray(made, float))
  assert factors.min() >= low - 1e-4 and factors.max() <= high + 1e-4
  # A wrong range or one number for many images would give a probability of almost 0.
  assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_hue_shifts_are_uniform():
  images = np.full((2000, 1, 1, 3), (200.0, 50.0, 50.0), np.float32)
  made = color_jitter(jax.random.key(0), images, hue=0.2)
  shifts = [colorsys.rgb_to_hsv(*pixel / 255)[0] for pixel in np.asarray(made, float)[:, 0, 0]]
  shifts = (np.array(shifts) + 0.5) % 1 - 0.5
  assert np.abs(shifts).max() <= 0.2 + 1e-4
  assert stats.kstest(shifts, stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3


def test_the_factors_of_an_image_have_nothing_in_common():
  images = np.full((2000, 2, 2, 3), (120.0, 90.0, 100.0), np.float32)
  images[:, 0, 1] = images[:, 1, 1] = 60
  names = ('brightness', 'contrast', 'saturation')
  made = [color_jitter(jax.random.key(0), images, **{name: 0.3}) for name in names]
  factors = [
    _factors(name, images.astype(float), np.asarray(one, float))
    for name, one in zip(names, made, strict=True)
  ]
  correlation = np.corrcoef(factors)[np.triu_indices(3, 1)]
  assert np.abs(correlation).max() < 5 / np.sqrt(2000)


def _single(key):
  """Each operation alone, as the jitter draws it: functions of images."""
  return {
    name: functools.partial(color_jitter, key, **{name: strength})
    for name, strength in STRENGTHS.items()
  }


def test_the_operations_follow_one_another_in_the_documented_order():
  images = _images(6).astype(np.float32)
  key = jax.random.key(1)
  expected = images
  for step in _single(key).values():
    expected = step(expected)
  made = color_jitter(key, images, **STRENGTHS)
  np.testing.assert_allclose(made, expected, atol=0.02)


def test_a_random_order_is_one_of_all_possible_for_the_whole_batch():
  images = _images(6).astype(np.float32)
  orders = set()
  for seed in range(24):
    key = jax.random.key(seed)
    steps = [step for name, step in _single(key).items() if name != 'hue']
    made, found = color_jitter(key, images, 0.8, 0.8, 0.8, random_order=True), []
    for order in itertools.permutations(range(3)):
      expected = images
      for place in order:
        expected = steps[place](expected)
      if np.abs(expected - made).max() < 0.02:
        found.append(order)
    assert len(found) == 1
    orders.add(found[0])
  assert len(orders) >= 5  # Of six: fewer are less likely than 1 in 700.


def test_gray_images_are_as_frequent_as_asked_for():
  images = _images(1000)
  made = np.asarray(random_gray(jax.random.key(0), images, 0.2))
  assert made.dtype == np.uint8
  is_gray = 0
  for before, after in zip(images, made, strict=True):
    grey = np.asarray(Image.fromarray(before).convert('L'))[..., None].repeat(3, axis=-1)
    is_gray += np.array_equal(after, grey)
    assert np.array_equal(after, grey) or np.array_equal(after, before)
  assert abs(is_gray - 200) < 4 * 12.6  # A standard deviation of 12.6.


def test_no_strength_leaves_the_pixels_alone():
  images = _images(10)
  key = jax.random.key(0)
  np.testing.assert_array_equal(color_jitter(key, images), images)
  np.testing.assert_array_equal(color_jitter(key, images, random_order=True), images)
  np.testing.assert_array_equal(random_gray(key, images, 0), images)
  one = jnp.ones(10)
  for name in ('brightness', 'contrast', 'saturation'):
    np.testing.assert_array_equal(getattr(color, f'adjust_{name}')(images, one), images)
  np.testing.assert_array_equal(color.adjust_hue(images, 0 * one), images)


def test_the_key_decides():
  images = _images(50)
  first, again, other = (
    color_jitter(jax.random.key(seed), images, **STRENGTHS) for seed in (3, 3, 4)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_images_of_one_channel_have_brightness_and_contrast_but_no_hue():
  images = _images(20, channels=1)
  key = jax.random.key(0)
  assert color.color_jitter(key, images, 0.4, 0.4).shape == images.shape
  np.testing.assert_array_equal(color_jitter(key, images, saturation=0.4), images)
  np.testing.assert_array_equal(random_gray(key, images, 1), images)
  with pytest.raises(UserError, match='hues .* three channels.*these have 1'):
    color.color_jitter(key, images, hue=0.1)
  with pytest.raises(UserError, match='gray values .* these have 4'):
    color.random_gray(key, _images(2, channels=4), 0.5)
