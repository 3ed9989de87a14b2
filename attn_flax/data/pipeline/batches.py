"""Batches of NumPy arrays on the host, decoded ahead by threads or worker processes."""

import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator

import numpy as np
from absl import flags

from attn_flax.data.crops import TRIES
from attn_flax.data.pipeline.order import Order
from attn_flax.data.records import Records

Batch = dict[str, np.ndarray]

BUFFERED = 2  # Batches that are decoded ahead, by this process or by each worker.
_ENDLESS = 2**40  # Steps; Grain needs the length of a source.
_DRAWS = 1  # Keeps the random numbers of the crops apart from those of the order.


@dataclasses.dataclass
class TrainBatches:
  """The training batches with random access, on the host; can be pickled.

  Attributes:
    records: the split.
    order: the order of its examples.
    batch_size: number of examples of the whole batch.
    rows: the rows of a batch that this process makes, ascending.
    seed: seed of the crops.
    scale: smallest and largest share of an image's area that a crop covers.
    ratio: smallest and largest width / height of a crop.
    threads: number of threads that decode a batch.
  """

  records: Records
  order: Order
  batch_size: int
  rows: np.ndarray
  seed: int
  scale: tuple[float, float]
  ratio: tuple[float, float]
  threads: int

  def __len__(self) -> int:
    return _ENDLESS

  def __getitem__(self, step: int) -> Batch:
    index = self.order.batch(step, self.batch_size)[self.rows]
    # Drawn for the whole batch, so that a row's crop does not depend on the process that makes it.
    rng = np.random.default_rng([self.seed, step, 0, _DRAWS])
    draws = rng.random((self.batch_size, TRIES, 4))[self.rows]
    made = self.records.train_batch(
      index, draws, scale=self.scale, ratio=self.ratio, threads=self.threads
    )
    return {'image': made.image, 'label': made.label}


@dataclasses.dataclass
class EvalBatches:
  """The evaluation batches with random access, on the host.

  Attributes:
    records: the split.
    batch_size: number of examples of the whole batch.
    rows: the rows of a batch that this process makes, ascending.
    threads: number of threads that decode a batch.
  """

  records: Records
  batch_size: int
  rows: np.ndarray
  threads: int

  def __len__(self) -> int:
    return -(-len(self.records) // self.batch_size)

  def __getitem__(self, number: int) -> Batch:
    index = number * self.batch_size + self.rows
    is_real = index < len(self.records)
    made = self.records.eval_batch(index[is_real], threads=self.threads)
    size = self.records.image_size
    # Padding is black and has label 0; its mask is 0.
    batch: Batch = {
      'image': np.zeros((len(index), size, size, 3), np.uint8),
      'label': np.zeros(len(index), np.int32),
      'mask': is_real.astype(np.float32),
    }
    batch['image'][is_real], batch['label'][is_real] = made.image, made.label
    return batch


def read_ahead(
  source: TrainBatches | EvalBatches, start: int = 0, workers: int = 0
) -> Generator[Batch, None, None]:
  """Yields the batches of a source from `start` on, made ahead by threads or by processes.

  Args:
    source: the batches.
    start: the first batch.
    workers: number of processes that make batches; 0: two threads.
  """
  import grain  # Takes a second; data that stays on the device does not need it.

  # Two threads, so that one begins the next batch while the other waits for the last images of its
  # own; they share the threads that decode.
  options = grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=BUFFERED)
  dataset = grain.MapDataset.source(source)[start:].to_iter_dataset(options)
  if workers:
    if not flags.FLAGS.is_parsed():  # Grain reads flags of its own, which keep their defaults.
      flags.FLAGS.mark_as_parsed()
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=BUFFERED)
    dataset = dataset.mp_prefetch(processes, worker_init_fn=_begin_worker)
  iterator = iter(dataset)
  try:
    for batch in iterator:
      # Copied, as the memory shared with a worker would otherwise live as long as the batch.
      yield {name: np.array(array) for name, array in batch.items()} if workers else batch
  finally:
    iterator.close()


def _begin_worker(index: int, count: int) -> None:
  """Prepares a new worker process."""
  del index, count
  # The parent answers signals that are sent to the whole group; it may still need a batch.
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  warnings.filterwarnings('ignore', module=r'PIL\.')  # As in the parent.
  if 'jax' in sys.modules:
    # A worker must never take the accelerator.
    sys.modules['jax'].config.update('jax_platforms', 'cpu')
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  """Ends this process when its parent has died."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)
