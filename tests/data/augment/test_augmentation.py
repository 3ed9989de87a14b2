"""Crops, flips and normalization against plain NumPy, and all augmentations together.

The oracle knows nothing of the random numbers: it searches all possible outcomes for the one that
occurred, then checks how often each occurs.
"""

import collections
import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from attn_flax.data.augment.augmentation import Augmentation, normalize, random_crop
from attn_flax.data.augment.crop import random_flip
from attn_flax.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]


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
  crop = lambda key, images: random_crop(key, images, padding, mode)  # noqa: E731
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
  black, mirrored = (random_crop(key, images, 2, mode) for mode in ('constant', 'reflect'))
  assert not np.array_equal(black, mirrored)


def test_unknown_padding_mode_is_refused():
  with pytest.raises(UserError, match="'wrap'.*constant, reflect"):
    random_crop(jax.random.key(0), _images(1), 2, 'wrap')


def test_flip_mirrors_half_of_the_images():
  images = _images(1000)
  flipped = np.asarray(jax.jit(random_flip)(jax.random.key(0), images))
  mirrored = 0
  for before, after in zip(images, flipped, strict=True):
    loop = np.empty_like(before)
    for x in range(before.shape[1]):
      loop[:, x] = before[:, before.shape[1] - 1 - x]
    (outcome,) = _found({'as it was': before, 'mirrored': loop}, after)
    mirrored += outcome == 'mirrored'
  assert abs(mirrored - 500) < 5 * 15.8  # Standard deviations.


def test_normalize_equals_a_loop():
  images, mean, std = _images(2), (0.5, 0.4, 0.3), (0.2, 0.25, 0.125)
  expected = np.empty(images.shape)
  for index in np.ndindex(images.shape):
    expected[index] = (float(images[index]) / 255 - mean[index[-1]]) / std[index[-1]]
  normalized = jax.jit(lambda images: normalize(images, mean, std))(images)
  assert normalized.dtype == np.float32
  np.testing.assert_allclose(normalized, expected, rtol=1e-5, atol=1e-6)


def test_training_crops_flips_and_normalizes():
  images, mean, std = _images(400), (0.5, 0.4, 0.3), (0.2, 0.25, 0.125)
  augmentation = Augmentation(mean, std, crop_padding=1, flip=True)
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
  augmentation = Augmentation((0.5, 0.4, 0.3), (0.2, 0.25, 0.125))
  trained = augmentation.train(jax.random.key(0), images)
  np.testing.assert_array_equal(trained, augmentation.evaluate(images))
  np.testing.assert_allclose(trained, (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.125], 1e-4)


def test_the_key_decides():
  images = _images(50)
  augmentation = Augmentation((0.5,) * 3, (0.2,) * 3, crop_padding=2, flip=True)
  first, again, other = (augmentation.train(jax.random.key(seed), images) for seed in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


PLAIN = {'mean': (0.5, 0.4, 0.3), 'std': (0.2, 0.25, 0.125)}
# All augmentations except the padded crop, which the resized crop replaces.
FULL = Augmentation(
  **PLAIN,
  flip=True,
  size=(5, 4),
  resized_crop=True,
  brightness=0.3,
  contrast=0.3,
  saturation=0.3,
  hue=0.1,
  grey=0.2,
  randaugment=(2, 9),
  cutout=3,
  erasing=0.5,
  erasing_fill='noise',
  mixup_alpha=1.0,
  cutmix_alpha=1.0,
  mix_per_image=True,
  num_classes=7,
)


def _pixels(batch):
  """Normalized images back as gray values."""
  return np.round((np.asarray(batch) * PLAIN['std'] + PLAIN['mean']) * 255).astype(np.uint8)


def _batch():
  return _images(32), np.arange(32, dtype=np.int32) % 7


def test_a_batch_without_mixing_is_what_training_makes_of_its_images():
  images, labels = _batch()
  augmentation = Augmentation(**PLAIN, crop_padding=2, flip=True, hue=0.1, erasing=0.5)
  key = jax.random.key(0)
  batch = jax.jit(augmentation.train_batch)(key, images, labels)
  assert batch.keys() == {'image', 'label'}
  np.testing.assert_allclose(batch['image'], jax.jit(augmentation.train)(key, images), atol=1e-5)
  np.testing.assert_array_equal(batch['label'], labels)
  assert batch['label'].dtype == np.int32 and batch['image'].dtype == np.float32


def test_a_batch_with_everything():
  train_batch = jax.jit(FULL.train_batch)
  first, again, other = (train_batch(jax.random.key(seed), *_batch()) for seed in (3, 3, 4))
  assert first['image'].shape == (32, 5, 4, 3) and first['image'].dtype == np.float32
  assert first['label'].shape == (32, 7) and first['label'].dtype == np.float32
  np.testing.assert_allclose(first['label'].sum(axis=1), 1, rtol=1e-6)
  for name in ('image', 'label'):
    assert np.isfinite(first[name]).all()
    np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first[name], other[name])


def test_mixing_comes_last_and_leaves_the_images_drawn_as_they_were():
  images, labels = _images(12), np.arange(12, dtype=np.int32)
  plain = Augmentation(**PLAIN, crop_padding=2, flip=True, erasing=0.5)
  mixing = dataclasses.replace(plain, mixup_alpha=1.0, num_classes=12)
  key = jax.random.key(0)
  before = np.asarray(jax.jit(plain.train)(key, images))
  batch = jax.jit(mixing.train_batch)(key, images, labels)
  share = float(batch['label'][0, 0])
  assert 0.001 < share < 0.999
  expected = share * before + (1 - share) * np.roll(before, 1, axis=0)
  np.testing.assert_allclose(batch['image'], expected, atol=1e-5)
  np.testing.assert_array_equal(jax.jit(mixing.train)(key, images), before)


@pytest.mark.parametrize(
  'fields', [{'randaugment': (1, 10)}, {'hue': 0.3, 'grey': 0.3, 'erasing': 0.5, 'cutout': 2}]
)
def test_switching_one_on_leaves_the_draws_of_the_others(fields):
  images, key = _images(12), jax.random.key(0)
  moving = Augmentation(**PLAIN, crop_padding=1, flip=True)
  moved = _pixels(jax.jit(moving.train)(key, images))
  both = jax.jit(dataclasses.replace(moving, **fields).train)(key, images)
  after = jax.jit(Augmentation(**PLAIN, **fields).train)(key, moved)
  np.testing.assert_allclose(both, after, atol=1e-5)
  assert not np.array_equal(_pixels(both), moved)


def test_colors_change_before_and_erasing_after_normalization():
  images = _images(40)
  key = jax.random.key(0)
  erased = np.asarray(jax.jit(Augmentation(**PLAIN, cutout=3).train)(key, images))
  changed = ~np.isclose(erased, Augmentation(**PLAIN).train(key, images), atol=1e-5)
  assert (erased[changed] == 0).all() and changed.any(axis=(1, 2, 3)).all()
  grey = _pixels(jax.jit(Augmentation(**PLAIN, grey=1).train)(key, images))
  assert (grey == grey[..., :1]).all()


def test_size_is_a_random_window_at_training_and_the_central_one_at_evaluation():
  images = _images(60)
  augmentation = Augmentation(**PLAIN, size=(3, 4))
  np.testing.assert_array_equal(_pixels(augmentation.evaluate(images)), images[:, 1:4, 0:4])
  trained = _pixels(jax.jit(augmentation.train)(jax.random.key(0), images))
  corners = set()
  for before, after in zip(images, trained, strict=True):
    windows = {(y, x): before[y : y + 3, x : x + 4] for y in range(4) for x in range(2)}
    corners.update(_found(windows, after))
  assert len(corners) == 8


def test_augmentations_are_hashable_and_equal_by_value():
  again = dataclasses.replace(FULL, flip=True)
  assert (
    again == FULL and hash(again) == hash(FULL) and dataclasses.replace(FULL, flip=False) != FULL
  )
  call = jax.jit(lambda augmentation, images: augmentation.evaluate(images), static_argnums=0)
  call(FULL, _images(2))


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    ({'crop_padding': -1}, 'crop_padding=-1 .* whole number from 0 to'),
    ({'padding_mode': 'wrap'}, "'wrap'.*constant, reflect"),
    ({'brightness': -0.1}, 'brightness=-0.1'),
    ({'contrast': float('inf')}, 'contrast=inf'),
    ({'mixup_alpha': float('nan'), 'num_classes': 3}, 'mixup_alpha=nan'),
    ({'crop_scale': 0.5}, 'crop_scale=0.5 .* two numbers'),
    ({'hue': 0.6}, 'hue=0.6 .* 0 to 0.5'),
    ({'grey': 1.5}, 'grey=1.5 .* from 0 to 1'),
    ({'erasing': -0.1}, 'erasing=-0.1 .* from 0 to 1'),
    ({'erasing_fill': 'mean'}, "'mean'.*noise, zeros"),
    ({'erasing_area': (0.3, 0.2)}, r'erasing_area\[1\]=0.2 .* from 0.3 to 1'),
    ({'crop_scale': (0.0, 1.0)}, r'crop_scale\[0\]=0.0 .* above 0'),
    ({'crop_ratio': (2.0, 1.0)}, r'crop_ratio\[1\]=1.0 .* from 2 to'),
    ({'cutout': -2}, 'cutout=-2'),
    ({'randaugment': (0, 9)}, r'randaugment\[0\]=0 .* from 1 to 100'),
    ({'randaugment': (2, 31)}, r'randaugment\[1\]=31 .* 0 to 30'),
    ({'randaugment': (1.5, 9)}, r'randaugment\[0\]=1.5 .* whole'),
    ({'randaugment': (2,)}, 'randaugment=.2,. .* two numbers'),
    ({'randaugment': ('two', 9)}, r"randaugment\[0\]='two' .* whole"),
    ({'randaugment_set': 'all'}, "'all'.*paper, released"),
    ({'mixup_alpha': -1.0, 'num_classes': 3}, 'mixup_alpha=-1.0'),
    ({'mix_probability': 2.0}, 'mix_probability=2.0'),
    ({'cutmix_alpha': 1.0}, 'set num_classes'),
  ],
)
def test_what_cannot_be_is_refused(fields, text):
  with pytest.raises(UserError, match=text):
    Augmentation(**PLAIN, **fields)


def test_everything_lowers_for_every_platform():
  lowered = export.export(jax.jit(FULL.train_batch), platforms=('cpu', 'cuda', 'tpu'))
  exported = lowered(jax.random.key(0), *_batch())
  assert [shape.shape for shape in exported.out_avals] == [(32, 5, 4, 3), (32, 7)]


ON_EIGHT_DEVICES = """
import re, sys
import jax, numpy as np
from tests.data.augment.test_augmentation import FULL, _batch

assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
key, batch = jax.random.key(3), jax.device_put(_batch(), spread)
train_batch = jax.jit(FULL.train_batch, out_shardings=spread).lower(key, *batch).compile()
np.savez(sys.argv[1], **train_batch(key, *batch))

# Only mixing moves images between devices: one image from each device to the next.
kinds = 'all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter'
pattern = rf'= (\\S+?)\\{{\\S* ({kinds})\\('
found = set(re.findall(pattern, train_batch.as_text()))
assert found == {('f32[1,5,4,3]', 'collective-permute'), ('f32[1,7]', 'collective-permute')}, found
"""


def test_one_and_eight_devices_agree(tmp_path):
  environment = os.environ | {
    'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
    'JAX_PLATFORMS': 'cpu',
  }
  file = tmp_path / 'batches.npz'
  command = [sys.executable, '-c', ON_EIGHT_DEVICES, str(file)]
  subprocess.run(command, check=True, cwd=ROOT, env=environment)
  expected = jax.jit(FULL.train_batch)(jax.random.key(3), *_batch())
  with np.load(file) as actual:
    assert set(actual) == set(expected) == {'image', 'label'}
    for name in expected:
      np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
