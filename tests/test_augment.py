"""Crops, flips and normalisation against plain NumPy.

The oracle knows nothing of the random numbers: it searches all possible outcomes for the one that
occurred, then checks how often each occurs.
"""

import collections

import jax
import numpy as np
import pytest

from attn_flax.data import augment
from attn_flax.errors import UserError


def _images(count, height=6, width=5, channels=3):
  """Random images: no two windows of one are alike, so that an outcome is found for certain."""
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def _windows(image, padding, mode):
  """All windows that a crop may return, by corner."""
  height, width, _ = image.shape
  padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
  return {
    (y, x): padded[y : y + height, x : x + width]
    for y in range(2 * padding + 1)
    for x in range(2 * padding + 1)
  }


def _found(candidates, image):
  """The keys of the candidates that equal the image."""
  return [key for key, candidate in candidates.items() if np.array_equal(candidate, image)]


@pytest.mark.parametrize('mode', ['constant', 'reflect'])
@pytest.mark.parametrize('jitted', [False, True])
def test_crop_cuts_every_window_equally_often(mode, jitted):
  images, padding = _images(900), 1
  crop = lambda key, images: augment.random_crop(key, images, padding, mode)  # noqa: E731
  crop = jax.jit(crop) if jitted else crop
  cropped = np.asarray(crop(jax.random.key(0), images))
  assert cropped.shape == images.shape and cropped.dtype == np.uint8

  corners = collections.Counter()
  for before, after in zip(images, cropped, strict=True):
    (corner,) = _found(_windows(before, padding, mode), after)
    corners[corner] += 1
  assert len(corners) == 9
  # 100 are expected of each, with a standard deviation of 9.4.
  assert all(abs(count - 100) < 5 * 9.4 for count in corners.values())


def test_padding_modes_differ():
  key, images = jax.random.key(0), _images(50)
  black, mirrored = (augment.random_crop(key, images, 2, mode) for mode in ('constant', 'reflect'))
  assert not np.array_equal(black, mirrored)


def test_unknown_padding_mode_is_refused():
  with pytest.raises(UserError, match="'wrap'.*constant, reflect"):
    augment.random_crop(jax.random.key(0), _images(1), 2, 'wrap')


def test_flip_mirrors_half_of_the_images():
  images = _images(1000)
  flipped = np.asarray(jax.jit(augment.random_flip)(jax.random.key(0), images))
  mirrored = 0
  for before, after in zip(images, flipped, strict=True):
    loop = np.empty_like(before)
    for x in range(before.shape[1]):
      loop[:, x] = before[:, before.shape[1] - 1 - x]
    (outcome,) = _found({'as it was': before, 'mirrored': loop}, after)
    mirrored += outcome == 'mirrored'
  assert abs(mirrored - 500) < 5 * 15.8  # Standard deviations.


def test_normalise_equals_a_loop():
  images, mean, std = _images(2), (0.5, 0.4, 0.3), (0.2, 0.25, 0.125)
  expected = np.empty(images.shape)
  for index in np.ndindex(images.shape):
    expected[index] = (float(images[index]) / 255 - mean[index[-1]]) / std[index[-1]]
  normalised = jax.jit(lambda images: augment.normalise(images, mean, std))(images)
  assert normalised.dtype == np.float32
  np.testing.assert_allclose(normalised, expected, rtol=1e-5, atol=1e-6)


def test_training_crops_flips_and_normalises():
  images, mean, std = _images(400), (0.5, 0.4, 0.3), (0.2, 0.25, 0.125)
  augmentation = augment.Augmentation(mean, std, crop_padding=1, flip=True)
  batch = np.asarray(jax.jit(augmentation.train)(jax.random.key(1), images))
  pixels = np.round((batch * std + mean) * 255).astype(np.uint8)

  outcomes = []
  for before, after in zip(images, pixels, strict=True):
    windows = _windows(before, 1, 'constant')
    candidates = {(*corner, 0): window for corner, window in windows.items()}
    candidates |= {(*corner, 1): window[:, ::-1] for corner, window in windows.items()}
    (outcome,) = _found(candidates, after)
    outcomes.append(outcome)
  # Crop and flip must not share random numbers: 18 outcomes, none correlated with another.
  assert len(set(outcomes)) == 18
  correlation = np.corrcoef(np.transpose(outcomes))[np.triu_indices(3, 1)]
  assert np.abs(correlation).max() < 5 / np.sqrt(400)


def test_neither_padding_nor_flip_leaves_the_pixels_alone():
  images = _images(10)
  augmentation = augment.Augmentation((0.5, 0.4, 0.3), (0.2, 0.25, 0.125))
  trained = augmentation.train(jax.random.key(0), images)
  np.testing.assert_array_equal(trained, augmentation.evaluate(images))
  np.testing.assert_allclose(trained, (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.125], 1e-4)


def test_the_key_decides():
  images = _images(50)
  augmentation = augment.Augmentation((0.5,) * 3, (0.2,) * 3, crop_padding=2, flip=True)
  first, again, other = (augmentation.train(jax.random.key(seed), images) for seed in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
