"""The pipeline for datasets that fit on the device: the pixels stay there, only indices move.

A whole split is held as one uint8 array, replicated where there are several devices. A batch is a
vector of indices, spread over the devices; gathering, cropping, flipping and normalising happen
inside the jitted step:

    pipeline = Resident(split, batch_size=128, seed=0, augmentation=augmentation, mesh=mesh)

    @jax.jit
    def train_step(state, fixed, moving, key):
      batch = pipeline.train_batch(fixed, moving, key)
      ...

    for moving in pipeline.batches(start_step):
      state = train_step(state, pipeline.fixed, moving, key)

The order of the examples is a function of (seed, step): to resume, start at the step.
"""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from attn_flax.data import Split
from attn_flax.data.augment import Augmentation
from attn_flax.errors import UserError

Arrays = dict[str, jax.Array]


class Resident:
  """A split on the device, and the batches that are drawn from it.

  Attributes:
    fixed: what stays on the device, replicated: 'image' [n, H, W, C] uint8 and 'label' [n] int32.
    num_examples: n, examples of the split.
    batch_size: examples of one batch, B, over all devices.
  """

  fixed: Arrays

  def __init__(
    self,
    split: Split,
    batch_size: int,
    *,
    seed: int,
    augmentation: Augmentation,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Copies the split to the devices.

    Args:
      split: the examples.
      batch_size: examples of one batch, over all devices of all processes.
      seed: seed of the order of the training examples, 0 or more.
      augmentation: what the batches undergo.
      mesh: one axis, 'data', of type Auto; None: the first device alone.

    Raises:
      UserError: the batch size is not a positive multiple of the number of devices.
    """
    num_devices = 1 if mesh is None else mesh.size
    if batch_size <= 0 or batch_size % num_devices:
      raise UserError(
        f'a batch of {batch_size} cannot be spread over {num_devices} device(s): choose a '
        f'positive multiple of {num_devices}'
      )
    self.num_examples = len(split)
    self.batch_size = batch_size
    self._seed = seed
    self._augmentation = augmentation
    everywhere, self._spread = _shardings(mesh)
    self.fixed = _place({'image': split.image, 'label': split.label}, everywhere)

  @property
  def steps_per_epoch(self) -> int:
    """Whole batches of one epoch; what remains of it waits for another permutation.

    Raises:
      UserError: the split is smaller than one batch.
    """
    if self.batch_size > self.num_examples:
      raise UserError(
        f'a batch of {self.batch_size} exceeds the {self.num_examples} training examples: choose '
        f'{self.num_examples} at most'
      )
    return self.num_examples // self.batch_size

  def batches(self, start_step: int = 0) -> Iterator[Arrays]:
    """Yields the training batches of steps `start_step`, `start_step` + 1, ... without end.

    Every epoch visits the examples in an order of its own, each at most once. For `train_batch`.

    Raises:
      UserError: the split is smaller than one batch.
    """
    # A generator of its own, so that the error is raised at the call, not at the first `next`.
    return self._batches(start_step, self.steps_per_epoch)

  def _batches(self, start_step: int, steps_per_epoch: int) -> Iterator[Arrays]:
    epoch, position = divmod(start_step, steps_per_epoch)
    while True:
      order = np.random.default_rng([self._seed, epoch]).permutation(self.num_examples)
      for i in range(position, steps_per_epoch):
        index = order[i * self.batch_size : (i + 1) * self.batch_size]
        yield _place({'index': index.astype(np.int32)}, self._spread)
      epoch, position = epoch + 1, 0

  def eval_batches(self) -> Iterator[Arrays]:
    """Yields batches that cover every example exactly once, in order, for `eval_batch`.

    The last batch is padded to the size of the others; its padding has mask 0.
    """
    for start in range(0, self.num_examples, self.batch_size):
      index = np.arange(start, start + self.batch_size, dtype=np.int32)
      mask = (index < self.num_examples).astype(np.float32)
      index = np.minimum(index, self.num_examples - 1)
      yield _place({'index': index, 'mask': mask}, self._spread)

  def train_batch(self, fixed: Arrays, moving: Arrays, key: jax.Array) -> Arrays:
    """Makes an augmented batch; a pure function of its arguments, for use inside jit.

    Args:
      fixed: `self.fixed`.
      moving: one of `batches`.
      key: random key of the augmentation.

    Returns:
      'image' [B, H, W, C] float32, normalised, and 'label' [B] int32.
    """
    index = moving['index']
    image = self._augmentation.train(key, fixed['image'][index])
    return {'image': image, 'label': fixed['label'][index]}

  def eval_batch(self, fixed: Arrays, moving: Arrays) -> Arrays:
    """Makes a batch without augmentation; a pure function, for use inside jit.

    Args:
      fixed: `self.fixed`.
      moving: one of `eval_batches`.

    Returns:
      'image' [B, H, W, C] float32, normalised, 'label' [B] int32, and 'mask' [B] float32: 1 for an
      example, 0 for padding.
    """
    index = moving['index']
    image = self._augmentation.evaluate(fixed['image'][index])
    return {'image': image, 'label': fixed['label'][index], 'mask': moving['mask']}


def _shardings(
  mesh: jax.sharding.Mesh | None,
) -> tuple[jax.sharding.Sharding, jax.sharding.Sharding]:
  """Shardings that hold the whole array on every device, and a part of its first axis on each."""
  if mesh is None:
    alone = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return alone, alone
  spec = jax.sharding.PartitionSpec
  return jax.sharding.NamedSharding(mesh, spec()), jax.sharding.NamedSharding(mesh, spec('data'))


def _place(arrays: dict[str, np.ndarray], sharding: jax.sharding.Sharding) -> Arrays:
  """Copies arrays to the devices; each process contributes the parts that its own devices hold."""

  def part_of(array: np.ndarray) -> Callable[..., np.ndarray]:
    return lambda index: array[index]

  with jax.transfer_guard('allow'):  # JAX counts this copy as implicit, but it is meant.
    return {
      name: jax.make_array_from_callback(array.shape, sharding, part_of(array))
      for name, array in arrays.items()
    }
