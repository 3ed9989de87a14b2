"""The pipeline for datasets that fit on the device: pixels stay there, and only indices move.

A whole split is held as one uint8 array, replicated where there are several devices. A batch is a
vector of indices, spread over the devices; gathering, cropping, flipping and normalizing happen
inside the jitted step.
"""

import itertools
from collections.abc import Generator

import jax
import numpy as np

from attn_flax.data.augment.augmentation import Augmentation
from attn_flax.data.examples import Split
from attn_flax.data.pipeline.order import Order, check_start, steps_per_epoch
from attn_flax.data.pipeline.sharding import Arrays, abstract, check_batch, place, shardings
from attn_flax.errors import check_flags, check_type


class Resident:
  """A split on the device, and the batches that are drawn from it.

  Attributes:
    constants: 'image' [n, H, W, C] uint8 and 'label' [n] int32, which stay on the device,
      replicated.
    num_examples: n, number of examples of the split.
    batch_size: B, number of examples of one batch over all devices of all processes.
  """

  constants: Arrays

  def __init__(
    self,
    split: Split,
    batch_size: int,
    *,
    seed: int,
    augmentation: Augmentation,
    mesh: jax.sharding.Mesh | None = None,
    balanced: bool = False,
  ):
    """Copies the split to the devices.

    Args:
      split: the examples.
      batch_size: number of examples of one batch over all devices of all processes.
      seed: seed of the order of the training examples, 0 or more.
      augmentation: augmentation and normalization of the batches.
      mesh: a mesh whose only axis is 'data', of type Auto; None: the first device only.
      balanced: whether training draws equally many examples of every class, see `order.Order`.

    Raises:
      UserError: an argument is of another type or out of range, or the batch size is not a positive
        multiple of the number of devices.
    """
    check_type('split', split, Split, 'a split in memory, as `data.load` gives it')
    check_type('augmentation', augmentation, Augmentation, 'an `Augmentation`')
    check_flags(balanced=balanced)
    check_batch(batch_size, mesh)
    self.num_examples = len(split)
    self.batch_size = batch_size
    self._order = Order(seed, len(split), split.label if balanced else None)
    self._augmentation = augmentation
    everywhere, self._spread = shardings(mesh)
    self.constants = place({'image': split.image, 'label': split.label}, everywhere)

  @property
  def steps_per_epoch(self) -> int:
    """Number of whole batches in an epoch, see `Pipeline`."""
    return steps_per_epoch(self.num_examples, self.batch_size)

  def batches(self, start_step: int = 0) -> Generator[Arrays, None, None]:
    """The inputs of the training steps, see `Pipeline`."""
    check_start(start_step)
    _ = self.steps_per_epoch  # So that its error is raised here, not at the first `next`.
    return (self._batch(step) for step in itertools.count(start_step))

  def _batch(self, step: int) -> Arrays:
    index = self._order.batch(step, self.batch_size)
    return place({'index': index.astype(np.int32)}, self._spread)

  def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of one of `batches`, see `Pipeline`."""
    return abstract({'index': ((self.batch_size,), np.int32)}, self._spread)

  def eval_batches(self) -> Generator[Arrays, None, None]:
    """The inputs of an evaluation, see `Pipeline`."""
    for start in range(0, self.num_examples, self.batch_size):
      index = np.arange(start, start + self.batch_size, dtype=np.int32)
      mask = (index < self.num_examples).astype(np.float32)
      index = np.minimum(index, self.num_examples - 1)
      yield place({'index': index, 'mask': mask}, self._spread)

  def train_batch(self, constants: Arrays, inputs: Arrays, key: jax.Array) -> Arrays:
    """An augmented batch, see `Pipeline`."""
    index = inputs['index']
    return self._augmentation.train_batch(key, constants['image'][index], constants['label'][index])

  def eval_batch(self, constants: Arrays, inputs: Arrays) -> Arrays:
    """A batch without augmentation, see `Pipeline`."""
    index = inputs['index']
    image = self._augmentation.evaluate(constants['image'][index])
    return {'image': image, 'label': constants['label'][index], 'mask': inputs['mask']}
