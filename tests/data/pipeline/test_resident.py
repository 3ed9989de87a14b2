"""The device-resident pipeline: order, coverage, resuming, and independence of the devices."""

import itertools
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from attn_flax.data import Split
from attn_flax.data.augment.augmentation import Augmentation
from attn_flax.data.pipeline.resident import Resident
from attn_flax.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]
PLAIN = Augmentation((0.5, 0.4, 0.3), (0.2, 0.25, 0.125))


def _split(count=23):
  """Random images whose labels number them, so that a batch tells which examples it holds."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
  return Split(images, np.arange(count, dtype=np.int32))


def _labels(pipeline, start, stop):
  """Labels of the training batches of steps start..stop - 1: [steps, B]."""
  batches = itertools.islice(pipeline.batches(start), stop - start)
  key = jax.random.key(0)
  return np.stack(
    [pipeline.train_batch(pipeline.constants, batch, key)['label'] for batch in batches]
  )


def test_batches_hold_the_examples_that_their_labels_name():
  split = _split()
  pipeline = Resident(split, 5, seed=0, augmentation=PLAIN)
  train_batch = jax.jit(pipeline.train_batch)
  for inputs in itertools.islice(pipeline.batches(), 6):
    batch = train_batch(pipeline.constants, inputs, jax.random.key(0))
    assert batch['image'].dtype == np.float32 and batch['label'].dtype == np.int32
    for image, label in zip(batch['image'], batch['label'], strict=True):
      expected = (split.image[label] / 255 - PLAIN.mean) / PLAIN.std
      np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-6)


def test_training_batches_are_augmented_by_the_key():
  augmentation = Augmentation((0.5,) * 3, (0.2,) * 3, crop_padding=1, flip=True)
  pipeline = Resident(_split(), 20, seed=0, augmentation=augmentation)
  inputs = next(pipeline.batches())
  first, again, other = (
    pipeline.train_batch(pipeline.constants, inputs, jax.random.key(seed))['image']
    for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_an_epoch_visits_no_example_twice_and_no_two_epochs_agree():
  pipeline = Resident(_split(23), 5, seed=0, augmentation=PLAIN)
  assert pipeline.steps_per_epoch == 4
  epochs = _labels(pipeline, 0, 40).reshape(10, 20)
  assert all(len(set(epoch)) == 20 for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 10
  # What one epoch drops, another visits: each example is missed with probability 3/23 an epoch.
  assert set(epochs.flat) == set(range(23))


def test_the_seed_decides_the_order():
  first, again, other = (
    _labels(Resident(_split(), 5, seed=seed, augmentation=PLAIN), 0, 4) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@pytest.mark.parametrize('start', [0, 3, 4, 9])
def test_resuming_equals_a_slice(start):
  pipeline = Resident(_split(23), 5, seed=0, augmentation=PLAIN)  # Four steps an epoch.
  np.testing.assert_array_equal(_labels(pipeline, start, 14), _labels(pipeline, 0, 14)[start:])


@pytest.mark.parametrize('batch_size', [1, 5, 23, 40])
def test_evaluation_sees_every_example_once(batch_size):
  split = _split(23)
  pipeline = Resident(split, batch_size, seed=0, augmentation=PLAIN)
  traces, seen = 0, []

  @jax.jit
  def eval_batch(constants, inputs):
    nonlocal traces
    traces += 1
    return pipeline.eval_batch(constants, inputs)

  for inputs in pipeline.eval_batches():
    batch = eval_batch(pipeline.constants, inputs)
    assert batch['image'].shape == (batch_size, 6, 5, 3)
    assert batch['mask'].shape == (batch_size,) and batch['mask'].dtype == np.float32
    for image, label, mask in zip(*(batch[k] for k in ('image', 'label', 'mask')), strict=True):
      if mask == 1:
        seen.append(int(label))
        expected = (split.image[label] / 255 - PLAIN.mean) / PLAIN.std
        np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-6)
      else:
        assert mask == 0
  assert seen == list(range(23))
  assert traces == 1


def test_nothing_is_copied_to_the_device_unasked():
  pipeline = Resident(_split(), 5, seed=0, augmentation=PLAIN)
  key = jax.random.key(0)
  train_batch, eval_batch = jax.jit(pipeline.train_batch), jax.jit(pipeline.eval_batch)
  with jax.transfer_guard('disallow'):
    for inputs in itertools.islice(pipeline.batches(), 6):
      train_batch(pipeline.constants, inputs, key)
    for inputs in pipeline.eval_batches():
      eval_batch(pipeline.constants, inputs)


def test_a_batch_larger_than_the_split_is_refused_for_training_alone():
  pipeline = Resident(_split(23), 24, seed=0, augmentation=PLAIN)
  with pytest.raises(UserError, match='24 exceeds the 23.*choose 23'):
    _ = pipeline.steps_per_epoch
  with pytest.raises(UserError, match='24 exceeds the 23'):
    pipeline.batches()
  assert sum(float(inputs['mask'].sum()) for inputs in pipeline.eval_batches()) == 23


def test_an_empty_batch_is_refused():
  with pytest.raises(UserError, match='batch of 0'):
    Resident(_split(), 0, seed=0, augmentation=PLAIN)


ON_EIGHT_DEVICES = """
import sys
import jax, numpy as np, pytest
from attn_flax.errors import UserError
from tests.data.pipeline.test_resident import batches_on, _split, Resident, PLAIN

assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
arrays, shardings = batches_on(mesh)
for sharding in shardings:
  assert sharding.spec == jax.sharding.PartitionSpec('data'), sharding
with pytest.raises(UserError, match='12 cannot be spread over 8.*multiple of 8'):
  Resident(_split(), 12, seed=0, augmentation=PLAIN, mesh=mesh)
np.savez(sys.argv[1], **arrays)
"""


def batches_on(mesh):
  """A few training and evaluation batches, as NumPy arrays, and how the images were sharded."""
  augmentation = Augmentation((0.5,) * 3, (0.2,) * 3, crop_padding=1, flip=True)
  pipeline = Resident(_split(70), 16, seed=3, augmentation=augmentation, mesh=mesh)
  assert all(array.sharding.is_fully_replicated for array in pipeline.constants.values())
  train_batch, eval_batch = jax.jit(pipeline.train_batch), jax.jit(pipeline.eval_batch)
  batches = {}
  for i, inputs in enumerate(itertools.islice(pipeline.batches(2), 5)):
    key = jax.random.fold_in(jax.random.key(0), i)
    batches[f'train{i}'] = train_batch(pipeline.constants, inputs, key)
  for i, inputs in enumerate(pipeline.eval_batches()):
    batches[f'eval{i}'] = eval_batch(pipeline.constants, inputs)
  arrays = {
    f'{name}/{key}': np.asarray(array)
    for name, batch in batches.items()
    for key, array in batch.items()
  }
  return arrays, [batch['image'].sharding for batch in batches.values()]


def test_one_and_eight_devices_agree(tmp_path):
  environment = os.environ | {
    'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
    'JAX_PLATFORMS': 'cpu',
  }
  file = tmp_path / 'batches.npz'
  command = [sys.executable, '-c', ON_EIGHT_DEVICES, str(file)]
  subprocess.run(command, check=True, cwd=ROOT, env=environment)
  expected, _ = batches_on(None)
  with np.load(file) as actual:
    assert set(actual) == set(expected) and len(expected) == 5 * 2 + 5 * 3
    for name in expected:
      # Normalization may be fused differently; a wrong crop or example is far outside of this.
      np.testing.assert_allclose(actual[name], expected[name], rtol=1e-6, atol=1e-6)
