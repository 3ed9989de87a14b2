"""Opens the pipeline for a split: resident for splits in memory, streaming for records."""

import jax

from attn_flax.data.augment.augmentation import Augmentation
from attn_flax.data.examples import Split
from attn_flax.data.pipeline.protocol import Pipeline
from attn_flax.data.pipeline.resident import Resident
from attn_flax.data.pipeline.stream import Stream, check_workers
from attn_flax.data.records import Records
from attn_flax.errors import check_type


def open_pipeline(
  split: Split | Records,
  batch_size: int,
  *,
  seed: int,
  augmentation: Augmentation,
  mesh: jax.sharding.Mesh | None = None,
  workers: int = 0,
  balanced: bool = False,
) -> Pipeline:
  """Opens the pipeline of a split.

  Args:
    split: a split of a dataset that `load` opened.
    batch_size: number of examples of one batch over all devices of all processes.
    seed: seed of the order of the training examples, and of their crops, 0 or more.
    augmentation: augmentation and normalization of the batches.
    mesh: a mesh whose only axis is 'data', of type Auto; None: the first device only.
    workers: processes that decode training batches; 0: threads. Ignored for a split in memory.
    balanced: whether training draws equally many examples of every class.

  Raises:
    UserError: an argument is of another type or out of range, or the batch size is not a positive
      multiple of the number of devices.
  """
  check_workers(workers)
  check_type('split', split, Split | Records, 'a split as `data.load` gives it')
  if isinstance(split, Split):
    return Resident(
      split, batch_size, seed=seed, augmentation=augmentation, mesh=mesh, balanced=balanced
    )
  return Stream(
    split,
    batch_size,
    seed=seed,
    augmentation=augmentation,
    mesh=mesh,
    workers=workers,
    balanced=balanced,
  )
