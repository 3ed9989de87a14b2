"""Cluttered digits: the properties of the examples, and how they are prepared and read."""

import dataclasses
import itertools
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from sklearn import datasets

from attn_flax import data
from attn_flax.data.sources.cluttered_digits import build, generate, glyphs
from attn_flax.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]
SMALL = {'train': 30, 'validation': 10, 'test': 20}
NAMES = ('train', 'validation', 'test')


def generated(*arguments, **fields):
  """A split, as arrays."""
  parts = list(generate.chunks(*arguments, **fields))
  return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


@pytest.fixture(scope='module')
def splits():
  sizes = {'train': 1500, 'validation': 1000, 'test': 2000}
  return {name: generated(name, size) for name, size in sizes.items()}


@pytest.fixture(scope='module')
def large():
  return generated('test', 100, size=64)


@pytest.fixture
def small_dataset(monkeypatch):
  """Makes `data.load` prepare a few examples."""

  def open_small(data_dir, size, seed):
    return build.prepare(data_dir, size, seed, SMALL)

  spec = dataclasses.replace(data.DATASETS['cluttered_digits'], open=open_small, splits=SMALL)
  monkeypatch.setitem(data.DATASETS, 'cluttered_digits', spec)


# The examples.


def test_sizes_of_the_default_dataset():
  assert data.DATASETS['cluttered_digits'].splits == {
    'train': 8000,
    'validation': 1000,
    'test': 2000,
  }
  assert len(generated('validation')['label']) == 1000


def test_shapes_and_types(splits, large):
  for arrays, count, size in [(splits['train'], 1500, 32), (large, 100, 64)]:
    assert {key: (array.shape, array.dtype) for key, array in arrays.items()} == {
      'image': ((count, size, size, 3), np.uint8),
      'label': ((count,), np.int32),
      'mask': ((count, size, size, 1), np.bool_),
      'bbox': ((count, 4), np.float32),
      'source': ((count,), np.int32),
    }


def test_classes_are_balanced(splits):
  for name in NAMES:
    counts = np.bincount(splits[name]['label'], minlength=10)
    assert (counts == len(splits[name]['label']) / 10).all()


def test_labels_are_those_of_the_source_digits(splits):
  target = datasets.load_digits().target
  for name in NAMES:
    np.testing.assert_array_equal(splits[name]['label'], target[splits[name]['source']])


def test_splits_share_no_source_digit(splits):
  for one, other in itertools.combinations(NAMES, 2):
    assert not set(splits[one]['source']) & set(splits[other]['source'])


def test_distractors_come_from_the_same_split(monkeypatch):
  ink, labels = glyphs.digits()
  used = {}
  for name in NAMES:
    watched = _Watched(ink)
    monkeypatch.setattr(glyphs, 'digits', lambda w=watched: (w, labels))
    generated(name, 500)
    used[name] = watched.used
  for one, other in itertools.combinations(NAMES, 2):
    assert used[one] and not used[one] & used[other]


class _Watched:
  """An array that records which of its rows were read."""

  def __init__(self, array):
    self.array, self.shape, self.used = array, array.shape, set()

  def __getitem__(self, index):
    rows = index[0] if isinstance(index, tuple) else index
    self.used |= set(np.ravel(rows).tolist())
    return self.array[index]


def test_splits_share_no_photo_pixel(monkeypatch):
  # A photo of three grays, one for each split's 60, 15 and 25 % of the width. Without contrast,
  # digits and fragments have the luma of the gray below; a pixel of another strip would differ.
  grays = np.repeat(np.float32([0.3, 0.5, 0.7]), [384, 96, 160])
  photo = np.broadcast_to(grays[:, None], (427, 640, 3))
  monkeypatch.setattr(generate, '_photos', lambda: [photo])
  flat = dataclasses.replace(generate.DIFFICULTIES[32], contrast=(0.0, 0.0), noise=(0.0, 0.0))
  for name, grey in zip(NAMES, [0.3, 0.5, 0.7], strict=True):
    luma = generated(name, 500, difficulty=flat)['image'] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(luma, 255 * grey, atol=0.6)  # Each channel is rounded.


def test_boxes_are_tight(splits, large):
  for arrays in (*splits.values(), large):
    size = arrays['mask'].shape[1]
    for mask, bbox in zip(arrays['mask'], arrays['bbox'], strict=True):
      y, x = np.nonzero(mask[..., 0])
      expected = np.array([y.min(), x.min(), y.max() + 1, x.max() + 1]) / size
      np.testing.assert_array_equal(bbox, expected.astype(np.float32))


def test_masks_cover_the_painted_digit():
  # With neither noise nor fragments, the inside of the digit has one color that no photo has.
  bare = dataclasses.replace(generate.DIFFICULTIES[32], fragments=(0, 0), noise=(0.0, 0.0))
  arrays = generated('train', 200, difficulty=bare)
  inside, outside = [], []
  for image, mask in zip(arrays['image'], arrays['mask'][..., 0], strict=True):
    colors, counts = np.unique(image[mask], axis=0, return_counts=True)
    has_color = (image == colors[counts.argmax()]).all(-1)
    inside.append(has_color[mask].mean())
    outside.append(has_color[~mask].mean())
  assert np.mean(inside) > 0.3 and np.max(outside) < 0.1 and np.mean(outside) < 0.001


def test_masks_look_like_the_labeled_digit(splits):
  """A nearest neighbor among clean digits recognizes most masks, shrunk to 8 x 8 pixels."""
  digits = datasets.load_digits()
  arrays = splits['test']
  correct = []
  for i in range(300):
    ymin, xmin, ymax, xmax = np.round(arrays['bbox'][i] * 32).astype(int)
    ink = arrays['mask'][i, ymin:ymax, xmin:xmax, 0]
    side = max(ink.shape)
    margins = [((side - n) // 2, side - n - (side - n) // 2) for n in ink.shape]
    fine = np.kron(np.pad(ink, margins), np.ones((8, 8)))
    coarse = fine.reshape(8, side, 8, side).mean((1, 3)) * 16
    others = np.arange(len(digits.target)) != arrays['source'][i]
    distance = ((digits.images[others] - coarse) ** 2).sum((1, 2))
    correct.append(digits.target[others][distance.argmin()] == arrays['label'][i])
  assert np.mean(correct) > 0.6


def test_fragments_hide_parts_of_the_digit_but_not_too_much():
  def mask(**changes):
    difficulty = dataclasses.replace(generate.DIFFICULTIES[32], **changes)
    return generated('train', 200, difficulty=difficulty)['mask']

  whole, hidden = mask(front_probability=0.0), mask(front_probability=1.0)
  assert not (hidden & ~whole).any()
  shown = hidden.sum((1, 2, 3)) / whole.sum((1, 2, 3))
  assert shown.mean() < 0.95
  one_in_front = mask(front_probability=1.0, fragments=(1, 1))
  shown = one_in_front.sum((1, 2, 3)) / whole.sum((1, 2, 3))
  assert shown.min() < 0.9 and shown.min() > 0.7
  np.testing.assert_array_equal(mask(front_probability=1.0, max_hidden=0.0), whole)


def test_the_middle_is_a_weak_explanation(splits, large):
  for arrays, area in [(splits['test'], (0.05, 0.10)), (large, (0.03, 0.08))]:
    mask = arrays['mask'][..., 0]
    size = mask.shape[1]
    assert mask[:, size // 2, size // 2].mean() < 0.25
    assert mask.mean(0).max() < 0.30
    assert area[0] < mask.mean() < area[1]


def test_deterministic_and_seeded():
  first, again, other = (generated('test', 20, seed=seed) for seed in (2014, 2014, 7))
  for key in first:
    np.testing.assert_array_equal(first[key], again[key])
  assert (first['image'] != other['image']).any((1, 2, 3)).all()
  assert (first['mask'] != other['mask']).any((1, 2, 3)).all()


def test_published_statistics_are_those_of_the_training_images(splits):
  spec = data.DATASETS['cluttered_digits']
  pixels = splits['train']['image'].reshape(-1, 3) / 255
  np.testing.assert_allclose(pixels.mean(0), spec.mean, atol=0.01)
  np.testing.assert_allclose(pixels.std(0), spec.std, atol=0.01)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(split='tset'), "'tset'.*'test'.*validation"),
    (dict(size=48), '48.*32, 64'),
    (dict(seed=-1), 'seed=-1.*from 0'),
    (dict(num_examples=25), '25.*multiple of 10'),
    (dict(num_examples=0), 'num_examples=0'),
  ],
)
def test_impossible_requests_are_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    generate.chunks(**{'split': 'train', **arguments})


# Its preparation and reading.


@pytest.mark.parametrize('size', [32, 64])
def test_what_is_loaded_is_what_was_generated(tmp_path, small_dataset, size):
  dataset = data.load(
    'cluttered_digits', data_dir=str(tmp_path), size=size, seed=5, annotations=True
  )
  assert dataset.class_names == tuple('0123456789')
  assert dataset.spec.image_size == size
  assert set(dataset.splits) == set(NAMES)
  for name, split in dataset.splits.items():
    expected = generated(name, SMALL[name], size=size, seed=5)
    assert len(split) == SMALL[name]
    for field in dataclasses.fields(split):
      actual = getattr(split, field.name)
      assert actual.dtype == expected[field.name].dtype
      np.testing.assert_array_equal(actual, expected[field.name])


def test_only_what_is_asked_for_is_loaded(tmp_path, small_dataset):
  dataset = data.load('cluttered_digits', data_dir=str(tmp_path), splits=['test'])
  assert list(dataset.splits) == ['test']
  assert dataset.splits['test'].mask is None and dataset.splits['test'].bbox is None


def test_the_environment_names_the_folder_where_no_argument_does(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  builder = build.prepare(num_examples=SMALL)
  assert pathlib.Path(builder.data_dir).is_relative_to(tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['cluttered_digits']


def test_a_prepared_dataset_is_read_without_writing(tmp_path, monkeypatch):
  build.prepare(str(tmp_path), num_examples=SMALL)
  monkeypatch.setattr(build, '_lock', pytest.fail)
  builder = build.prepare(str(tmp_path), num_examples=SMALL)
  assert len(builder.as_data_source('test')) == 20


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(name='clutered_digits'), "'clutered_digits'.*mean 'cluttered_digits'"),
    (dict(size=48), r'48.*--config\.data\.size.*32, 64'),
    (dict(splits=['train', 'val']), "'val'.*test, train, validation"),
    (dict(seed=-1), '-1'),
  ],
)
def test_unknown_datasets_are_refused(tmp_path, arguments, message):
  arguments = {'name': 'cluttered_digits', 'data_dir': str(tmp_path), **arguments}
  with pytest.raises(UserError, match=message):
    data.load(**arguments)
  assert not list(tmp_path.iterdir())


def test_masks_of_a_dataset_without_them_are_refused(monkeypatch):
  spec = dataclasses.replace(data.DATASETS['cluttered_digits'], annotated=False)
  monkeypatch.setitem(data.DATASETS, 'bare', spec)
  with pytest.raises(UserError, match="'bare' has no masks.*cluttered_digits"):
    data.load('bare', annotations=True)


def test_an_unwritable_folder_is_refused(tmp_path):
  file = tmp_path / 'file'
  file.touch()
  with pytest.raises(UserError, match=r'file/cluttered_digits.*--config\.data\.dir='):
    build.prepare(str(file), num_examples=SMALL)


KILLED_HALFWAY = """
import sys, time
from attn_flax.data.sources.cluttered_digits import build, generate, glyphs

chunks = generate.chunks

def chunks_until_killed(*arguments, **keywords):
  yield from chunks('train', 10)
  print('halfway', file=sys.__stdout__, flush=True)
  time.sleep(30)
  sys.exit('not killed')

generate.chunks = chunks_until_killed
build.prepare(sys.argv[1], num_examples={'train': 30, 'test': 20})
"""


def test_a_killed_preparation_leaves_nothing_behind(tmp_path):
  sizes = {'train': 30, 'test': 20}
  child = subprocess.Popen(
    [sys.executable, '-c', KILLED_HALFWAY, str(tmp_path)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
  )
  with child:
    assert child.stdout.readline() == b'halfway\n'
    child.send_signal(signal.SIGKILL)
  assert child.returncode == -signal.SIGKILL
  assert list(tmp_path.rglob('incomplete*'))
  assert not list(tmp_path.rglob('dataset_info.json'))

  builder = build.prepare(str(tmp_path), num_examples=sizes)
  assert not list(tmp_path.rglob('incomplete*'))
  assert {name: len(builder.as_data_source(name)) for name in sizes} == sizes


def test_processes_that_come_together_prepare_once(tmp_path, monkeypatch):
  # The lock belongs to the open file, so that threads wait for it as processes do.
  together, writes, lengths = threading.Barrier(2), [], []
  lock, write = build._lock, build._write

  def lock_together(folder):
    together.wait(timeout=30)  # Both have found the dataset missing.
    return lock(folder)

  def count_writes(builder):
    writes.append(builder)
    write(builder)

  def prepare():
    builder = build.prepare(str(tmp_path), num_examples=SMALL)
    lengths.append(len(builder.as_data_source('train')))

  monkeypatch.setattr(build, '_lock', lock_together)
  monkeypatch.setattr(build, '_write', count_writes)
  threads = [threading.Thread(target=prepare) for _ in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert lengths == [30, 30] and len(writes) == 1


WITHOUT_TENSORFLOW_AND_NETWORK = """
import socket, sys

def refuse(*arguments):
  raise AssertionError(f'network access: {arguments}')

socket.socket.connect = socket.getaddrinfo = refuse
from attn_flax import data
slow = {'tensorflow', 'tensorflow_datasets', 'sklearn'} & set(sys.modules)
assert not slow, slow
from attn_flax.data.sources.cluttered_digits import build
from attn_flax.data.sources.tfds import catalog
builder = build.prepare(sys.argv[1], num_examples={'train': 10})
source = catalog.CatalogSource(builder, data.Part('train'))
records = data.Records(source, 32, 32, one_size=True, annotated=True)
assert records.take(range(10)).mask.any()
assert 'tensorflow' not in sys.modules
print('done')
"""


def test_neither_tensorflow_nor_the_network_is_touched(tmp_path):
  command = [sys.executable, '-c', WITHOUT_TENSORFLOW_AND_NETWORK, str(tmp_path)]
  child = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
  assert child.stdout == 'done\n'
  # Stderr, which is not a terminal, gets one line and no progress bar.
  assert child.stderr.count('\n') == 1 and child.stderr.startswith('Preparing cluttered_digits/')
