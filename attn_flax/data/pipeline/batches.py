"""Batches on the host, decoded by threads or worker processes: NumPy arrays, at random access."""

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

from attn_flax.data.pipeline.order import Order
from attn_flax.data.records import Records

Batch = dict[str, np.ndarray]

BUFFERED = 2  # Batches that are decoded ahead, by this process or by each worker.
_ENDLESS = 2**40  # Steps; a source has to have a length.
_DRAWS = 1  # Marks the random stream of the crops apart from that of the order.


@dataclasses.dataclass
class TrainBatches:
  """The training batches at random access, on the host; can be pickled.

  Attributes:
    records: the split.
    order: its order.
    batch_size: examples of the whole batch.
    rows: which of its rows to make, ascending.
    seed: seed of the crops.
    scale: least and largest share of an image that a crop covers.
    ratio: least and largest width / height of a crop.
    threads: how many decode one batch.
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
    from attn_flax.data.crops import TRIES

    index = self.order.batch(step, self.batch_size)[self.rows]
    # Drawn for the whole batch, so that a row's crop does not depend on who makes it.
    rng = np.random.default_rng([self.seed, step, 0, _DRAWS])
    draws = rng.random((self.batch_size, TRIES, 4))[self.rows]
    made = self.records.train_batch(
      index, draws, scale=self.scale, ratio=self.ratio, threads=self.threads
    )
    return {'image': made.image, 'label': made.label}


@dataclasses.dataclass
class EvalBatches:
  """The evaluation batches at random access, on the host.

  Attributes:
    records: the split.
    batch_size: examples of the whole batch.
    rows: which of its rows to make, ascending.
    threads: how many decode one batch.
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
  """Yields the batches of a source from `start` on, made ahead by a thread or by processes."""
  import grain

  # Without processes two threads, so that one begins the next batch while the other waits for the
  # last images of its own; a batch is itself decoded by many.
  options = grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=BUFFERED)
  dataset = grain.MapDataset.source(source)[start:].to_iter_dataset(options)
  if workers:
    if not flags.FLAGS.is_parsed():  # The library reads flags of its own; all at their defaults.
      flags.FLAGS.mark_as_parsed()
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=BUFFERED)
    dataset = dataset.mp_prefetch(processes, worker_init_fn=_begin_worker)
  iterator = iter(dataset)
  try:
    for batch in iterator:
      # Out of the memory that is shared with a worker, which would stay as long as the batch does.
      yield {name: np.array(array) for name, array in batch.items()} if workers else batch
  finally:
    iterator.close()


def _begin_worker(index: int, count: int) -> None:
  """Prepares a new worker process."""
  del index, count
  # Signals that reach the whole group are the parent's to answer: it may need one more batch.
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
