"""The protocol of pipelines, which bring a split's examples into a jitted step."""

from collections.abc import Generator
from typing import Protocol

import jax

from attn_flax.data.pipeline.sharding import Arrays


class Pipeline(Protocol):
  """The batches of a split, on one device or spread over several.

  A batch is made of two parts: `constants`, which stay on the device, and the inputs of the batch.
  `train_batch` and `eval_batch` are pure functions that make a batch of both inside the jitted
  step:

      @jax.jit
      def train_step(state, constants, inputs, key):
        batch = pipeline.train_batch(constants, inputs, key)
        ...

      for inputs in pipeline.batches(start_step):
        state = train_step(state, pipeline.constants, inputs, key)

  The order of the examples is a function of (seed, step): to resume, pass the next step to
  `batches`.

  Attributes:
    constants: arrays that stay on the device, replicated.
    num_examples: number of examples of the split.
    batch_size: B, number of examples of one batch over all devices of all processes.
  """

  constants: Arrays
  num_examples: int
  batch_size: int

  @property
  def steps_per_epoch(self) -> int:
    """Number of whole batches in an epoch; the examples that are left over differ by epoch.

    Raises:
      UserError: the split is smaller than one batch.
    """
    ...

  def batches(self, start_step: int = 0) -> Generator[Arrays, None, None]:
    """Yields inputs of `train_batch` for the steps from `start_step` on, without end.

    Every epoch visits the examples in an order of its own, each at most once unless the pipeline is
    balanced. Close the generator to stop its threads or processes.

    Raises:
      UserError: the split is smaller than one batch, or an example cannot be read.
    """
    ...

  def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of one of `batches`: all that compiling a step needs."""
    ...

  def eval_batches(self) -> Generator[Arrays, None, None]:
    """Yields inputs of `eval_batch` that cover every example exactly once, in order.

    The last batch is padded to the size of the others; its padding has mask 0.

    Raises:
      UserError: an example cannot be read.
    """
    ...

  def train_batch(self, constants: Arrays, inputs: Arrays, key: jax.Array) -> Arrays:
    """Makes an augmented batch; a pure function of its arguments, for use inside jit.

    Args:
      constants: `self.constants`.
      inputs: one of `batches`.
      key: random key of the augmentation.

    Returns:
      'image' [B, H, W, C] float32, normalized, and 'label' [B] int32, or probabilities [B, K]
      float32 where images are mixed.
    """
    ...

  def eval_batch(self, constants: Arrays, inputs: Arrays) -> Arrays:
    """Makes a batch without augmentation; a pure function, for use inside jit.

    Args:
      constants: `self.constants`.
      inputs: one of `eval_batches`.

    Returns:
      'image' [B, H, W, C] float32, normalized, 'label' [B] int32, and 'mask' [B] float32: 1 for an
      example, 0 for padding.
    """
    ...
