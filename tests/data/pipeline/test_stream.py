"""The streaming pipeline: crops against Pillow, order, resuming, processes, devices, coverage."""

import io
import itertools
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from attn_flax import data
from attn_flax.data import crops, decode
from attn_flax.data.augment.augmentation import Augmentation
from attn_flax.data.pipeline.batches import EvalBatches, TrainBatches, read_ahead
from attn_flax.data.pipeline.open import open_pipeline
from attn_flax.data.pipeline.order import Order
from attn_flax.data.pipeline.resident import Resident
from attn_flax.data.pipeline.stream import Stream
from attn_flax.data.records import Records, tight_box
from attn_flax.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]
PLAIN = Augmentation((0.5, 0.4, 0.3), (0.2, 0.25, 0.125))
SIZE = 24
BOX = {'scale': (0.08, 1.0), 'ratio': (3 / 4, 4 / 3)}


class Pictures:
  """Smooth random images, see `records.Source`; each has a label of its own, and can be pickled."""

  keys = frozenset({'image', 'label'})

  def __init__(self, count, bad=None):
    self.count, self.bad = count, bad

  def __len__(self):
    return self.count

  def pixels(self, index):
    """[H, W, 3] uint8."""
    rng = np.random.default_rng(index)
    height, width = rng.integers(30, 80, 2)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))

  def rows(self, indices):
    return [{'image': self.encoded(index), 'label': index} for index in indices]

  def encoded(self, index):
    buffer = io.BytesIO()
    Image.fromarray(self.pixels(index)).save(buffer, 'png')
    content = buffer.getvalue()
    return content[:100] if index == self.bad else content

  def labels(self):
    return np.arange(self.count, dtype=np.int32)

  def name(self, index):
    return f'picture {index}'


def records(count=23, **fields):
  return Records(Pictures(count, fields.pop('bad', None)), SIZE, 28, **fields)


def taken(pipeline, start, stop):
  """The training batches of steps start..stop - 1, as NumPy arrays."""
  batches = pipeline.batches(start)
  found = [jax.tree.map(np.asarray, batch) for batch in itertools.islice(batches, stop - start)]
  batches.close()
  return found


def assert_same(left, right):
  assert len(left) == len(right) > 0
  for one, other in zip(left, right, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


# Crops.


def test_random_crops_are_pillows():
  draws = np.random.default_rng(0).random((40, crops.TRIES, 4))
  source = Pictures(40)
  batch = records(40).train_batch(range(40), draws)
  np.testing.assert_array_equal(batch.label, np.arange(40))
  for i in range(40):
    image = Image.fromarray(source.pixels(i))
    box = crops.crop_box(*image.size, draws[i])
    expected = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(batch.image[i], np.asarray(expected))


def test_central_crops_are_pillows_two_steps():
  source = Pictures(40)
  split = records(40).take(range(40))
  for i in range(40):
    image = Image.fromarray(source.pixels(i))
    factor = 28 / min(image.size)
    resized = image.resize(
      [28 if side == min(image.size) else int(side * factor + 1e-9) for side in image.size],
      Image.Resampling.BILINEAR,
    )
    left, top = (round((side - SIZE) / 2) for side in resized.size)
    expected = np.asarray(resized)[top : top + SIZE, left : left + SIZE].astype(int)
    assert np.abs(split.image[i] - expected).max() <= 1


def test_crops_have_the_shares_and_shapes_that_were_asked_for():
  rng = np.random.default_rng(0)
  boxes = np.array(
    [crops.crop_box(640, 480, rng.random((10, 4)), (0.08, 0.5)) for _ in range(4000)]
  )
  left, top, right, bottom = boxes.T
  assert (left >= 0).all() and (top >= 0).all() and (right <= 640).all() and (bottom <= 480).all()
  share = (right - left) * (bottom - top) / (640 * 480)
  ratio = (right - left) / (bottom - top)
  assert 0.079 <= share.min() and share.max() <= 0.501 and abs(np.median(share) - 0.29) < 0.01
  assert ratio.min() >= 0.74 and ratio.max() <= 1.35 and abs(np.log(ratio).mean()) < 0.02
  # Places are uniform among those possible.
  place = left / np.maximum(640 - (right - left), 1)
  assert abs(place.mean() - 0.5) < 0.02 and place.min() < 0.02 and place.max() > 0.98


@pytest.mark.parametrize(('width', 'height'), [(1000, 10), (10, 1000), (1, 1), (3, 2)])
def test_crops_of_what_no_box_fits(width, height):
  rng = np.random.default_rng(0)
  for _ in range(50):
    left, top, right, bottom = crops.crop_box(width, height, rng.random((10, 4)), (1.0, 1.0))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
  if width > 1:
    left, top, right, bottom = crops.crop_box(1000, 10, np.full((10, 4), 0.5), (1.0, 1.0))
    assert (right - left, bottom - top) == (13, 10) and left == (1000 - 13) // 2


def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(monkeypatch):
  rng = np.random.default_rng(0)
  coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
  image = coarse.resize((800, 600), Image.Resampling.BICUBIC)
  buffer = io.BytesIO()
  image.save(buffer, 'jpeg', quality=95)
  decoded = []
  convert = decode._to_rgb
  monkeypatch.setattr(decode, '_to_rgb', lambda x: decoded.append(x.size) or convert(x))
  for share, size in [(0.99, (200, 150)), (0.3, (400, 300)), (0.02, (800, 600))]:
    draws = np.tile([share, 0.5, 0.4, 0.6], (crops.TRIES, 1))
    crop = decode.random_crop(buffer.getvalue(), 128, draws, scale=(0, 1))
    assert decoded.pop() == size
    box = crops.crop_box(800, 600, draws, (0, 1))
    expected = np.asarray(image.resize((128, 128), Image.Resampling.BILINEAR, box=box)).astype(int)
    assert np.abs(crop - expected).mean() < 3
  decode.central_crop(buffer.getvalue(), 64)  # Evaluation is exact rather than fast.
  assert decoded == [(800, 600)]


def test_whole_images_where_they_have_the_size_already():
  class Small(Pictures):
    def pixels(self, index):
      return np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), np.uint8)

  split = Records(Small(9), SIZE, SIZE, one_size=True)
  batch = split.train_batch([3, 1], np.zeros((2, crops.TRIES, 4)))
  np.testing.assert_array_equal(batch.image[0], Small(9).pixels(3))
  # Then the device crops.
  augmentation = Augmentation((0.5,) * 3, (0.2,) * 3, crop_padding=4)
  assert Stream(split, 4, seed=0, augmentation=augmentation)._augmentation.crop_padding == 4
  assert Stream(records(), 4, seed=0, augmentation=augmentation)._augmentation.crop_padding == 0


def test_boxes_of_masks():
  mask = np.zeros((10, 20), bool)
  np.testing.assert_array_equal(tight_box(mask), np.zeros(4))
  mask[2:5, 7:8] = mask[4, 3] = True
  np.testing.assert_allclose(tight_box(mask), [0.2, 0.15, 0.5, 0.4])


# Training batches.


def test_batches_are_a_function_of_seed_and_step():
  first, again, other = (
    taken(Stream(records(), 5, seed=seed, augmentation=PLAIN), 0, 9) for seed in (1, 1, 2)
  )
  assert_same(first, again)
  assert first[0]['image'].shape == (5, SIZE, SIZE, 3) and first[0]['image'].dtype == np.uint8
  labels = np.stack([batch['label'] for batch in first])
  assert (labels != np.stack([batch['label'] for batch in other])).any()
  # Four steps an epoch, in the order of the other pipeline; crops differ from epoch to epoch.
  for step in range(9):
    np.testing.assert_array_equal(labels[step], Order(1, 23).batch(step, 5))
  seen = {}
  for batch in first[:8]:
    for label, image in zip(batch['label'], batch['image'], strict=True):
      seen.setdefault(int(label), []).append(image)
  twice = [images for images in seen.values() if len(images) == 2]
  assert twice and all((one != other).any() for one, other in twice)


@pytest.mark.parametrize('start', [0, 3, 4, 9])
def test_resuming_equals_a_slice(start):
  pipeline = Stream(records(), 5, seed=0, augmentation=PLAIN)
  assert_same(taken(pipeline, start, 12), taken(pipeline, 0, 12)[start:])


def test_labels_name_the_images():
  draws = np.random.default_rng([0, 2, 0, 1]).random((5, crops.TRIES, 4))
  (batch,) = taken(Stream(records(), 5, seed=0, augmentation=PLAIN), 2, 3)
  expected = records().train_batch(batch['label'], draws)
  np.testing.assert_array_equal(batch['image'], expected.image)


def source(rows=None, threads=1, count=23):
  rows = np.arange(8) if rows is None else rows
  order = Order(7, count)
  return TrainBatches(records(count), order, 8, rows, 7, *BOX.values(), threads)


def test_the_number_of_threads_changes_nothing():
  split = records(90)
  draws = np.random.default_rng(0).random((90, crops.TRIES, 4))
  one, many = (split.train_batch(range(90), draws, threads=threads) for threads in (1, 5))
  np.testing.assert_array_equal(one.image, many.image)
  np.testing.assert_array_equal(one.label, many.label)


@pytest.mark.parametrize('count', [2, 4])
def test_processes_make_the_parts_of_one_batch(count):
  """Each reads its own rows only; together they are the batch of a single process."""
  rows = np.split(np.arange(8), count)
  for step in (0, 1, 5):
    parts = [source(part)[step] for part in rows]
    assert all(len(part['label']) == 8 // count for part in parts)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert_same([whole], [source()[step]])
  halves = [EvalBatches(records(), 8, part, 1) for part in rows]
  assert {len(half) for half in halves} == {3}
  for number in range(3):
    whole = EvalBatches(records(), 8, np.arange(8), 1)[number]
    parts = [half[number] for half in halves]
    assert_same([{k: np.concatenate([part[k] for part in parts]) for k in whole}], [whole])


def test_rows_that_are_not_contiguous():
  """As on machines whose mesh interleaves the processes' devices."""
  rows = np.array([1, 2, 6, 7])
  whole, part = source()[3], source(rows)[3]
  assert_same([part], [{name: array[rows] for name, array in whole.items()}])


def test_it_can_be_pickled():
  again = pickle.loads(pickle.dumps(source()))
  assert_same([again[step] for step in range(3)], [source()[step] for step in range(3)])


def test_balanced_batches():
  class Unbalanced(Pictures):
    def labels(self):
      return (np.arange(self.count) >= 20).astype(np.int32)

  split = Records(Unbalanced(23), SIZE, 28)
  pipeline = Stream(split, 22, seed=0, augmentation=PLAIN, balanced=True)
  (batch,) = taken(pipeline, 0, 1)
  assert 10 <= (batch['label'] >= 20).sum() <= 12
  resident = Resident(split.take(range(23)), 22, seed=0, augmentation=PLAIN, balanced=True)
  key, inputs = jax.random.key(0), next(resident.batches())
  assert resident.train_batch(resident.constants, inputs, key)['label'].shape == (22,)


def test_train_batches_are_finished_on_the_device():
  augmentation = Augmentation((0.5, 0.4, 0.3), (0.2,) * 3, flip=True, resized_crop=True)
  pipeline = Stream(records(), 8, seed=0, augmentation=augmentation)
  traces = 0

  @jax.jit
  def train_batch(constants, inputs, key):
    nonlocal traces
    traces += 1
    return pipeline.train_batch(constants, inputs, key)

  batches, keys = pipeline.batches(), jax.random.split(jax.random.key(0), 3)
  with jax.transfer_guard('disallow'):
    made = [(inputs := next(batches), train_batch(pipeline.constants, inputs, key)) for key in keys]
  batches.close()
  assert traces == 1
  for inputs, batch in made:
    assert batch['image'].dtype == np.float32 and batch['label'].dtype == np.int32
    plain = (np.asarray(inputs['image']) / 255 - (0.5, 0.4, 0.3)) / 0.2
    flipped = plain[:, :, ::-1]
    for image, one, other in zip(batch['image'], plain, flipped, strict=True):
      close = [np.allclose(image, expected, atol=1e-5) for expected in (one, other)]
      assert any(close)


def test_a_step_can_be_compiled_before_the_first_batch():
  for pipeline in (
    Stream(records(), 8, seed=0, augmentation=PLAIN),
    Resident(records().take(range(23)), 8, seed=0, augmentation=PLAIN),
  ):
    batches = pipeline.batches()
    inputs = next(batches)
    batches.close()
    abstract = pipeline.abstract_batch()
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), inputs) == jax.tree.map(
      lambda x: (x.shape, x.dtype, x.sharding), abstract
    )
    key = jax.random.key(0)
    compiled = jax.jit(pipeline.train_batch).lower(pipeline.constants, abstract, key).compile()
    assert compiled(pipeline.constants, inputs, key)['label'].shape == (8,)


# Evaluation.


@pytest.mark.parametrize('batch_size', [1, 5, 23, 40])
def test_evaluation_sees_every_example_once(batch_size):
  split = records(23)
  whole = split.take(range(23))
  pipeline = Stream(split, batch_size, seed=0, augmentation=PLAIN)
  seen, shapes = [], set()
  for inputs in pipeline.eval_batches():
    batch = jax.jit(pipeline.eval_batch)(pipeline.constants, inputs)
    shapes.add((batch['image'].shape, batch['label'].shape, batch['mask'].shape))
    for image, label, mask in zip(*(batch[k] for k in ('image', 'label', 'mask')), strict=True):
      if mask == 1:
        seen.append(int(label))
        expected = (whole.image[label] / 255 - PLAIN.mean) / PLAIN.std
        np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-6)
      else:
        assert mask == 0
  assert seen == list(range(23))
  assert shapes == {((batch_size, SIZE, SIZE, 3), (batch_size,), (batch_size,))}


# Mistakes, and which pipeline.


def test_impossible_sizes_and_workers_are_refused():
  for batch_size, match in [(0, 'batch of 0'), (-1, 'batch of -1')]:
    with pytest.raises(UserError, match=match):
      Stream(records(), batch_size, seed=0, augmentation=PLAIN)
  with pytest.raises(UserError, match='workers=-1 is impossible'):
    Stream(records(), 5, seed=0, augmentation=PLAIN, workers=-1)
  pipeline = Stream(records(), 24, seed=0, augmentation=PLAIN)
  with pytest.raises(UserError, match='24 exceeds the 23.*choose 23'):
    pipeline.batches()


def test_too_little_shared_memory_for_the_workers(monkeypatch):
  usage = shutil.disk_usage('/')
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=60_000))
  monkeypatch.setattr(os.path, 'isdir', lambda path: True)
  pipeline = Stream(records(), 5, seed=0, augmentation=PLAIN, workers=3)
  with pytest.raises(UserError, match='3 workers need up to 0 MB of /dev/shm.*0 workers.*shm-size'):
    pipeline.batches()


def test_a_broken_image_is_named():
  pipeline = Stream(records(bad=11), 5, seed=0, augmentation=PLAIN)
  with pytest.raises(UserError, match='picture 11 cannot be used: .*fix it'):
    taken(pipeline, 0, 5)
  with pytest.raises(UserError, match='picture 11 cannot be used'):
    list(pipeline.eval_batches())


def test_the_pipeline_that_suits():
  arguments = dict(seed=0, augmentation=PLAIN)
  assert isinstance(open_pipeline(records(), 5, workers=3, **arguments), Stream)
  in_memory = records().take(range(23))
  assert isinstance(open_pipeline(in_memory, 5, workers=3, **arguments), Resident)
  assert isinstance(in_memory, data.Split)
  subset = in_memory.take([4, 2])
  np.testing.assert_array_equal(subset.label, [4, 2])
  np.testing.assert_array_equal(subset.image, in_memory.image[[4, 2]])


# Several devices, several processes.

ON_EIGHT_DEVICES = """
import sys
import jax, numpy as np
from tests.data.pipeline.test_stream import batches_on

assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
arrays, shardings = batches_on(mesh)
assert all(sharding.spec == jax.sharding.PartitionSpec('data') for sharding in shardings)
np.savez(sys.argv[1], **arrays)
"""


def batches_on(mesh):
  """A few training and evaluation batches, as NumPy arrays, and how the images were sharded."""
  pipeline = Stream(records(40), 16, seed=3, augmentation=PLAIN, mesh=mesh)
  batches = pipeline.batches(1)
  inputs = [*itertools.islice(batches, 3), *pipeline.eval_batches()]
  batches.close()
  arrays = {f'{i}/{k}': np.asarray(v) for i, batch in enumerate(inputs) for k, v in batch.items()}
  return arrays, [batch['image'].sharding for batch in inputs]


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
    assert_same([dict(actual)], [expected])


IN_TWO_PROCESSES = """
import sys
import jax, numpy as np
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
address, index, folder = sys.argv[1:]
jax.distributed.initialize(address, num_processes=2, process_id=int(index))
from tests.data.pipeline import test_stream

read = []
rows = test_stream.Pictures.rows
test_stream.Pictures.rows = lambda self, indices: read.extend(indices) or rows(self, indices)
mesh = jax.make_mesh((2,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
pipeline = test_stream.Stream(
  test_stream.records(40), 16, seed=3, augmentation=test_stream.PLAIN, mesh=mesh
)
batches = pipeline.batches(1)
inputs = [*test_stream.itertools.islice(batches, 3)]
batches.close()
arrays = {}
for i, batch in enumerate([*inputs, *pipeline.eval_batches()]):
  assert batch['image'].shape[0] == 16
  for name, array in batch.items():
    (shard,) = array.addressable_shards
    assert shard.data.shape[0] == 8
    arrays[f'{i}/{name}'] = np.asarray(shard.data)
np.savez(f'{folder}/{index}.npz', read=np.array(read), **arrays)
"""


@pytest.mark.slow
def test_two_processes_read_one_half_each(tmp_path):
  import socket

  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{probe.getsockname()[1]}'
  environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
  children = [
    subprocess.Popen(
      [sys.executable, '-c', IN_TWO_PROCESSES, address, str(index), str(tmp_path)],
      cwd=ROOT,
      env=environment,
    )
    for index in range(2)
  ]
  assert [child.wait(timeout=120) for child in children] == [0, 0]
  halves = [dict(np.load(tmp_path / f'{index}.npz')) for index in range(2)]
  read = [half.pop('read') for half in halves]
  expected, _ = batches_on(None)
  whole = {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
  assert_same([whole], [expected])
  assert all(len(part) <= 100 for part in read), 'each reads its own rows, and a little ahead'


def test_workers_change_nothing():
  """Processes that are spawned make the same batches, also from the middle on."""
  pipeline = Stream(records(), 8, seed=7, augmentation=PLAIN, workers=2)
  expected = [source()[step] for step in range(3, 8)]
  assert_same(taken(pipeline, 3, 8), expected)


@pytest.mark.slow
def test_a_broken_image_is_named_by_a_worker():
  pipeline = Stream(records(bad=11), 5, seed=0, augmentation=PLAIN, workers=1)
  with pytest.raises(UserError, match='picture 11 cannot be used: .*fix it'):
    taken(pipeline, 0, 5)


STREAMING = """
import signal, sys, time
from tests.data.pipeline import test_stream

def main():
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  pipeline = test_stream.Stream(
    test_stream.records(), 8, seed=7, augmentation=test_stream.PLAIN, workers=1
  )
  batches = pipeline.batches()
  next(batches)
  import multiprocessing
  (worker,) = multiprocessing.active_children()
  print(worker.pid, flush=True)
  for _ in range(10_000):
    next(batches)
    time.sleep(0.02)
    print('more', flush=True)

if __name__ == '__main__':
  main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_workers_outlive_signals_but_not_their_parent(tmp_path):
  script = tmp_path / 'streaming.py'
  script.write_text(STREAMING)
  child = subprocess.Popen(
    [sys.executable, str(script)],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    start_new_session=True,
    text=True,
  )
  with child:
    worker = int(child.stdout.readline())
    # Ctrl-C and schedulers send signals to workers, too; the parent may go on for a while.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
      os.killpg(child.pid, number)
    assert [child.stdout.readline() for _ in range(20)] == ['more\n'] * 20
    child.kill()
  deadline = time.monotonic() + 20
  while pathlib.Path(f'/proc/{worker}').exists():
    state = pathlib.Path(f'/proc/{worker}/stat').read_text().split()[2]
    if state == 'Z' or time.monotonic() > deadline:
      break
    time.sleep(0.1)
  assert time.monotonic() < deadline


def test_nothing_is_left_running():
  import threading

  before = threading.active_count()
  batches = read_ahead(source())
  next(batches)
  batches.close()
  deadline = time.monotonic() + 10
  while threading.active_count() > before and time.monotonic() < deadline:
    time.sleep(0.02)
  assert threading.active_count() <= before
