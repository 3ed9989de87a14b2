"""Whether the input pipelines keep up with training: three tables.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --small            # seconds, to see that everything works

1. Images of CIFAR's size on the device: the time to gather and augment a batch, as a share of the
   training step that it feeds. The share should stay below 5 %.
2. JPEGs of 500 x 375 pixels: decoding and random crops of 224 x 224, per core. The library uses
   Pillow; simplejpeg and opencv are timed where they are installed.
3. The loader that streams such files, with threads (0 workers) and with worker processes.

Rates per core are per second of CPU time, so that other load on the machine affects them less. The
tables are printed and written to benchmarks/results, as one CSV whose name holds the conditions.
"""

import importlib.metadata
import importlib.util
import io
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

from attn_flax.training import allocator

if __name__ == '__main__':
  allocator.keep_freed_pages()  # Before the first thread starts.

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from PIL import Image
from tables import write_csv

from attn_flax import create_model
from attn_flax.costs.table import format_table
from attn_flax.costs.timing import interleave, ratio
from attn_flax.data import Split, crops, decode
from attn_flax.data.augment.augmentation import Augmentation
from attn_flax.data.dataset import eval_resize
from attn_flax.data.pipeline.resident import Resident
from attn_flax.data.pipeline.stream import Stream
from attn_flax.data.records import Records
from attn_flax.data.sources.folder.read import FolderSource
from attn_flax.tasks.names import find_task
from attn_flax.training.steps import init_state, make_train_step

_MODEL = flags.DEFINE_string('model', 'resnet20', 'Network whose training step is timed.')
_BATCH = flags.DEFINE_integer('batch_size', 128, 'Images per step.')
_ROUNDS = flags.DEFINE_integer('rounds', 20, 'Timed calls of each augmentation and of the step.')
_IMAGES = flags.DEFINE_integer('images', 600, 'Number of JPEGs to decode and to stream.')
_WORKERS = flags.DEFINE_list('workers', '0,1,2', 'Numbers of worker processes to stream with.')
_SMALL = flags.DEFINE_bool('small', False, 'A few seconds; the figures mean nothing.')
_OUT = flags.DEFINE_string(
  'out', 'benchmarks/results', 'Folder of the CSV; empty: do not write it.'
)

_LIMIT = 0.05  # Share of the training step above which a pipeline is marked.
_SIZE = 224
_SIDES = (500, 375)  # Width and height of a typical image of ImageNet.


def _resident(rounds: int, batch_size: int) -> list[dict]:
  """Times gathering and augmentation on the device, and the training step of the network."""
  count = max(2_000, batch_size)
  rng = np.random.default_rng(0)
  split = Split(
    rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count).astype(np.int32)
  )
  facts = {'mean': (0.5,) * 3, 'std': (0.25,) * 3, 'crop_padding': 4, 'flip': True}
  augmentations = {'crop, flip': Augmentation(**facts)}
  if not _SMALL.value:  # RandAugment takes long to compile.
    augmentations['crop, flip, RandAugment, mixup'] = Augmentation(
      **facts, randaugment=(2, 9), mixup_alpha=0.2, num_classes=10
    )
  reduced = {'depths': (1, 1, 1), 'widths': (8, 16, 32)} if _SMALL.value else {}
  model = create_model(_MODEL.value, num_classes=10, **reduced)
  optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, 0.9, nesterov=True))
  state = jax.jit(lambda key: init_state(model, optimizer, key, (32, 32, 3), ema=False))(
    jax.random.key(0)
  )
  train = jax.jit(
    make_train_step(model, optimizer, lambda _: 0.1, find_task('classification')), donate_argnums=0
  )
  key = jax.random.key(1)
  batch = {
    'image': jnp.asarray(rng.normal(size=(batch_size, 32, 32, 3)), jnp.float32),
    'label': jnp.asarray(rng.integers(0, 10, batch_size), jnp.int32),
  }
  held = [state]

  def step():
    held[0], metrics = train(held[0], batch, key)
    return metrics

  calls: dict[str, Callable] = {'step': step}
  for name, augmentation in augmentations.items():
    pipeline = Resident(split, batch_size, seed=0, augmentation=augmentation)
    make = jax.jit(pipeline.train_batch)
    batches = pipeline.batches()
    # As in training, this includes drawing the indices and copying them to the device.
    calls[name] = lambda make=make, pipeline=pipeline, batches=batches: make(
      pipeline.constants, next(batches), key
    )
  seconds = interleave(calls, rounds=rounds)
  need = batch_size / float(np.median(seconds['step']))
  rows = []
  for name in augmentations:
    share = ratio(seconds[name], seconds['step'])[1]
    is_slow = share > _LIMIT and not _SMALL.value
    rows.append(
      {
        'part': f'resident 32 px, {_MODEL.value}, batch {batch_size}',
        'what': name,
        'images_per_second': round(batch_size / float(np.median(seconds[name]))),
        'needed': round(need),
        'share_of_step': f'{share:.2%}' + (f' (over {_LIMIT:.0%})' if is_slow else ''),
      }
    )
  return rows


def _photos(count: int) -> list[bytes]:
  """JPEG files (quality 90) of crops of scikit-learn's two photographs, scaled to `_SIDES`."""
  from sklearn import datasets

  photos = [Image.fromarray(image) for image in datasets.load_sample_images().images]
  rng = np.random.default_rng(0)
  files = []
  for i in range(count):
    photo = photos[i % 2]
    left, top = (int(rng.integers(0, side // 4)) for side in photo.size)
    box = (left, top, left + photo.width * 3 // 4, top + photo.height * 3 // 4)
    buffer = io.BytesIO()
    photo.resize(_SIDES, Image.Resampling.BICUBIC, box=box).save(buffer, 'jpeg', quality=90)
    files.append(buffer.getvalue())
  return files


def _decoders() -> dict[str, Callable[[bytes, np.ndarray], object]]:
  """Ways to decode a JPEG and cut out a random crop, as functions of (encoded, draws)."""

  def pillow_alone(encoded, draws):
    del draws
    with Image.open(io.BytesIO(encoded)) as image:
      image.load()

  def pillow(encoded, draws):
    return decode.random_crop(encoded, _SIZE, draws)

  ways = {'Pillow, decoding alone': pillow_alone, 'Pillow': pillow}
  has_opencv = importlib.util.find_spec('cv2') is not None
  if importlib.util.find_spec('simplejpeg') is not None:
    import simplejpeg

    def with_simplejpeg(encoded, draws):
      pixels = Image.fromarray(simplejpeg.decode_jpeg(encoded))
      box = crops.crop_box(*pixels.size, draws)
      return np.asarray(pixels.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR, box=box))

    ways['simplejpeg, resized by Pillow'] = with_simplejpeg
  if has_opencv:
    import cv2

    cv2.setNumThreads(1)

    def resized(pixels, draws):
      left, top, right, bottom = crops.crop_box(pixels.shape[1], pixels.shape[0], draws)
      crop = pixels[top:bottom, left:right]
      # Pillow averages pixels where it shrinks an image.
      shrinks = crop.shape[0] > _SIZE and crop.shape[1] > _SIZE
      method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
      return cv2.resize(crop, (_SIZE, _SIZE), interpolation=method)

    def opencv(encoded, draws):
      pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
      return resized(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), draws)

    ways['opencv'] = opencv
    if 'simplejpeg, resized by Pillow' in ways:
      ways['simplejpeg, resized by opencv'] = lambda encoded, draws: resized(
        simplejpeg.decode_jpeg(encoded), draws
      )
  return ways


def _decoding(files: list[bytes], rounds: int) -> list[dict]:
  """Images per second of CPU time, by decoder; they take turns, and the best round counts."""
  ways = _decoders()
  draws = np.random.default_rng(0).random((len(files), crops.TRIES, 4))
  best = dict.fromkeys(ways, float('inf'))
  for _ in range(rounds):
    for name, way in ways.items():
      began = time.process_time()
      for encoded, own in zip(files, draws, strict=True):
        way(encoded, own)
      best[name] = min(best[name], time.process_time() - began)
  return [
    {
      'part': f'decode {_SIDES[0]} x {_SIDES[1]} JPEG, random crop {_SIZE}, one core',
      'what': name,
      'images_per_second': round(len(files) / seconds),
    }
    for name, seconds in best.items()
  ]


def _loading(files: list[bytes], batch_size: int) -> list[dict]:
  """Times the loader, from files on disk to batches on the device."""
  augmentation = Augmentation((0.5,) * 3, (0.25,) * 3, flip=True)
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    names = [f'{i}.jpg' for i in range(len(files))]
    for name, content in zip(names, files, strict=True):
      pathlib.Path(folder, name).write_bytes(content)
    source = FolderSource(pathlib.Path(folder), names, [i % 10 for i in range(len(names))])
    records = Records(source, _SIZE, eval_resize(_SIZE))
    for workers in (0, 1) if _SMALL.value else map(int, _WORKERS.value):
      pipeline = Stream(records, batch_size, seed=0, augmentation=augmentation, workers=workers)
      began = time.perf_counter()
      batches = pipeline.batches()
      jax.block_until_ready(next(batches))
      start_s = time.perf_counter() - began
      for _ in range(4 * max(workers, 1)):  # Batches that were made while the workers started.
        next(batches)
      steps = max(len(files) // batch_size, 2)
      began, cpu = time.perf_counter(), time.process_time()
      for _ in range(steps):
        jax.block_until_ready(next(batches))
      seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
      batches.close()
      rows.append(
        {
          'part': f'stream from files, batch {batch_size}, {os.cpu_count()} cores',
          'what': f'{workers} workers' if workers else '0 workers (threads)',
          'images_per_second': round(steps * batch_size / seconds),
          'start_s': round(start_s, 1),
          'busy_cores_of_this_process': round(cpu / seconds, 2),
        }
      )
  return rows


def main(argv):
  """Measures, prints the tables and writes them."""
  del argv
  small = _SMALL.value
  files = _photos(48 if small else _IMAGES.value)
  tables = [
    _resident(2 if small else _ROUNDS.value, 8 if small else _BATCH.value),
    _decoding(files, 1 if small else 5),
    _loading(files, 16 if small else 64),
  ]
  for rows in tables:
    print(rows[0]['part'])
    print(format_table([{k: v for k, v in row.items() if k != 'part'} for row in rows]))
    print()
  pillow = importlib.metadata.version('pillow')
  name = f'input_pipeline-{_MODEL.value}-b{_BATCH.value}-pillow{pillow}'
  write_csv('' if small else _OUT.value, name, [row for rows in tables for row in rows])


if __name__ == '__main__':
  app.run(main)
