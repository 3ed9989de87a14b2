"""The pipeline for datasets that do not fit on the device: images are decoded on their way there.

Files are read, decoded, cropped at random and resized on the host, by threads or worker processes;
uint8 pixels are copied to the device; flips, colors and normalization happen inside the jitted
step.

Order and crops depend on (seed, step) only, not on the number of workers or processes. Each process
decodes what its own devices need.
"""

import collections
import dataclasses
import os
import shutil
from collections.abc import Callable, Generator

import jax
import numpy as np

from attn_flax.data.augment.augmentation import Augmentation
from attn_flax.data.pipeline.batches import BUFFERED, Batch, EvalBatches, TrainBatches, read_ahead
from attn_flax.data.pipeline.order import Order, check_seed, check_start, steps_per_epoch
from attn_flax.data.pipeline.sharding import (
  Arrays,
  abstract,
  check_batch,
  own_rows,
  place_rows,
  shardings,
)
from attn_flax.data.records import Records
from attn_flax.data.threads import default_threads
from attn_flax.errors import UserError, check_flags, check_range, check_type

MOST_WORKERS = 4096
_AHEAD = 2  # Batches that are copied to the device while another is used.
_SHARED_MEMORY = '/dev/shm'


def check_workers(workers: object) -> None:
  """Raises `UserError` unless `workers` is a whole number from 0 to `MOST_WORKERS`."""
  check_range('workers', workers, 0, MOST_WORKERS, whole=True)


class Stream:
  """A split that is decoded while the device works, and the batches that are drawn from it.

  Attributes:
    constants: empty; the inputs of a batch hold all of it.
    num_examples: n, number of examples of the split.
    batch_size: B, number of examples of one batch over all devices of all processes.
  """

  constants: Arrays

  def __init__(
    self,
    records: Records,
    batch_size: int,
    *,
    seed: int,
    augmentation: Augmentation,
    mesh: jax.sharding.Mesh | None = None,
    workers: int = 0,
    balanced: bool = False,
  ):
    """Checks the arguments, but reads no example yet.

    Args:
      records: the examples.
      batch_size: number of examples of one batch over all devices of all processes.
      seed: seed of the order and the crops of the training examples, 0 or more.
      augmentation: augmentation and normalization of the batches. Its `crop_scale` and `crop_ratio`
        apply to the random crops on the host; only images of `one_size`, which the host does not
        crop, are cropped on the device.
      mesh: a mesh whose only axis is 'data', of type Auto; None: the first device only.
      workers: processes that decode training batches; 0: threads of this process, as many as there
        are cores. Processes take seconds to start, and pay off where threads wait for the GIL:
        beyond about a thousand images per second.
      balanced: whether training draws equally many examples of every class, see `order.Order`.

    Raises:
      UserError: an argument is of another type or out of range, or the batch size is not a positive
        multiple of the number of devices.
    """
    check_type('records', records, Records, 'a split as `data.load` gives it')
    check_type('augmentation', augmentation, Augmentation, 'an `Augmentation`')
    check_flags(balanced=balanced)
    check_seed(seed)
    check_batch(batch_size, mesh)
    check_workers(workers)
    self.num_examples = len(records)
    self.batch_size = batch_size
    self.constants = {}
    self._records = records
    self._seed = seed
    self._crop = augmentation.crop_scale, augmentation.crop_ratio
    if not records.one_size:
      augmentation = dataclasses.replace(
        augmentation, crop_padding=0, resized_crop=False, size=None
      )
    self._augmentation = augmentation
    self._workers = workers
    self._balanced = balanced
    _, self._spread = shardings(mesh)
    self._rows = own_rows(self._spread, batch_size)

  @property
  def steps_per_epoch(self) -> int:
    """Number of whole batches in an epoch, see `Pipeline`."""
    return steps_per_epoch(self.num_examples, self.batch_size)

  def batches(self, start_step: int = 0) -> Generator[Arrays, None, None]:
    """The inputs of the training steps, see `Pipeline`.

    Raises:
      UserError: as in `Pipeline`, or there is too little shared memory for the workers.
    """
    check_start(start_step)
    _ = self.steps_per_epoch  # So that its error is raised here, not at the first `next`.
    if self._workers:
      self._check_shared_memory()
    labels = self._records.label if self._balanced else None
    scale, ratio = self._crop
    source = TrainBatches(
      self._records,
      Order(self._seed, self.num_examples, labels),
      self.batch_size,
      self._rows,
      self._seed,
      scale,
      ratio,
      threads=1 if self._workers else default_threads(),
    )
    return self._to_device(lambda: read_ahead(source, start_step, self._workers))

  def _check_shared_memory(self) -> None:
    """Raises `UserError` if workers lack shared memory for batches; containers often limit it."""
    if not os.path.isdir(_SHARED_MEMORY):
      return
    # Each worker buffers some batches and makes one; this process buffers as many for each worker.
    batches = self._workers * (2 * BUFFERED + 1)
    needed = batches * len(self._rows) * self._records.image_size**2 * 3
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
      workers = '1 worker needs' if self._workers == 1 else f'{self._workers} workers need'
      raise UserError(
        f'{workers} up to {needed / 1e6:.0f} MB of {_SHARED_MEMORY}, which has '
        f'{free / 1e6:.0f} MB left: choose 0 workers, for threads, or fewer, or give the container '
        'more (docker run --shm-size=<size>)'
      )

  def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of one of `batches`, see `Pipeline`."""
    size, count = self._records.image_size, self.batch_size
    image = (count, size, size, 3), np.uint8
    return abstract({'image': image, 'label': ((count,), np.int32)}, self._spread)

  def eval_batches(self) -> Generator[Arrays, None, None]:
    """The inputs of an evaluation, see `Pipeline`.

    Threads decode: processes would take longer to start than most evaluations.
    """
    source = EvalBatches(self._records, self.batch_size, self._rows, default_threads())
    return self._to_device(lambda: read_ahead(source))

  def _to_device(
    self, open_host: Callable[[], Generator[Batch, None, None]]
  ) -> Generator[Arrays, None, None]:
    """Copies batches to the devices, `_AHEAD` of them ahead of their use."""
    host = open_host()
    ahead: collections.deque[Arrays] = collections.deque()
    try:
      for batch in host:
        ahead.append(place_rows(batch, self._spread, self._rows, self.batch_size))
        if len(ahead) > _AHEAD:
          yield ahead.popleft()
      yield from ahead
    finally:
      host.close()

  def train_batch(self, constants: Arrays, inputs: Arrays, key: jax.Array) -> Arrays:
    """An augmented batch, see `Pipeline`."""
    del constants
    return self._augmentation.train_batch(key, inputs['image'], inputs['label'])

  def eval_batch(self, constants: Arrays, inputs: Arrays) -> Arrays:
    """A batch without augmentation, see `Pipeline`."""
    del constants
    image = self._augmentation.evaluate(inputs['image'])
    return {'image': image, 'label': inputs['label'], 'mask': inputs['mask']}
