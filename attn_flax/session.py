"""Everything that a config stands for, built and checked before anything runs."""

import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attn_flax import data
from attn_flax.checkpoint import Checkpoints
from attn_flax.data.augment import Augmentation
from attn_flax.data.resident import Resident
from attn_flax.errors import UserError, check_choice
from attn_flax.models import create_model
from attn_flax.optim import Schedule, make_optimizer, make_schedule
from attn_flax.steps import TrainState, init_state


class Session(NamedTuple):
  """What a run of a config is made of.

  Attributes:
    config: what `configs/base.py` makes.
    mesh: all devices on one axis, `data`, over which batches are split.
    dataset: the dataset, with its three splits.
    model: the network.
    schedule: learning rate by update.
    optimizer: what turns gradients into updates.
    updates: updates of the whole run.
    updates_per_epoch: updates per pass over the training split.
  """

  config: Any
  mesh: Mesh
  dataset: data.Dataset
  model: nn.Module
  schedule: Schedule
  optimizer: optax.GradientTransformation
  updates: int
  updates_per_epoch: int

  @property
  def replicated(self) -> NamedSharding:
    """The sharding of what every device holds in full."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(H, W, C) of the images."""
    return self.dataset.splits['train'].image.shape[1:]

  def describe_data(self) -> dict[str, Any]:
    """Class names and preprocessing: what it takes to use the network on other images."""
    spec = self.dataset.spec
    return {
      'name': self.config.data.name,
      'class_names': list(self.dataset.class_names),
      'image_shape': list(self.image_shape),
      'mean': list(spec.mean),
      'std': list(spec.std),
    }

  def fresh_state(self, key: jax.Array) -> TrainState:
    """A new state, on every device."""

    def make(key):
      ema = self.config.train.ema_decay is not None
      return init_state(self.model, self.optimizer, key, self.image_shape, ema=ema)

    return jax.jit(make, out_shardings=self.replicated)(key)

  def train_pipeline(self) -> Resident:
    """The batches of the training split."""
    train = self.config.train
    return self._pipeline('train', train.batch_size // train.accumulate)

  def eval_pipeline(self, split: str) -> Resident:
    """The batches that evaluate a split."""
    return self._pipeline(split, self.config.eval.batch_size)

  def _pipeline(self, split, batch_size):
    spec = self.dataset.spec
    return Resident(
      self.dataset.splits[split],
      batch_size,
      seed=self.config.seed,
      augmentation=Augmentation(
        mean=spec.mean, std=spec.std, crop_padding=spec.crop_padding, flip=spec.flip
      ),
      mesh=self.mesh,
    )


def open_session(config: Any) -> Session:
  """Builds and checks everything that a config stands for; writes nothing but the dataset.

  Raises:
    UserError: for anything in the config that cannot be run.
  """
  mesh = make_mesh()
  train = config.train
  if train.accumulate < 1 or train.batch_size % train.accumulate:
    raise UserError(
      f'train.accumulate={train.accumulate} does not divide train.batch_size={train.batch_size}'
    )
  _check_batch('train.batch_size / train.accumulate', train.batch_size // train.accumulate, mesh)
  _check_batch('eval.batch_size', config.eval.batch_size, mesh)
  check_choice('train.batch_norm', train.batch_norm, ('global', 'per_device'))

  dataset = data.load(
    config.data.name, data_dir=config.data.dir, size=config.data.size, seed=config.data.seed
  )
  updates_per_epoch = len(dataset.splits['train'].label) // train.batch_size
  updates = train.steps or train.epochs * updates_per_epoch
  if updates < 1:
    raise UserError(
      f'train.batch_size={train.batch_size} with train.epochs={train.epochs} makes a run of no '
      'update; choose a smaller batch or more epochs'
    )
  schedule = make_schedule(
    config.optimizer,
    batch_size=train.batch_size,
    updates=updates,
    updates_per_epoch=updates_per_epoch,
  )
  optimizer = make_optimizer(
    config.optimizer, schedule, clip_norm=train.clip_norm, accumulate=train.accumulate
  )
  model = make_model(config.model, len(dataset.class_names))
  return Session(config, mesh, dataset, model, schedule, optimizer, updates, updates_per_epoch)


def make_mesh() -> Mesh:
  """All devices on one axis, `data`."""
  # The default Explicit axes refuse gathers by a sharded index.
  return jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))


def make_model(config: Any, num_classes: int) -> nn.Module:
  """The network of a config (`config.model`)."""
  fields = {key: config[key] for key in ('depths', 'widths', 'stem') if config[key] is not None}
  return create_model(
    config.name,
    attention=config.attention.to_dict() or None,
    num_classes=num_classes,
    stride_in=config.stride_in,
    zero_init_last=config.zero_init_last,
    dtype=config.dtype,
    **fields,
  )


def restore_best(session: Session, workdir: pathlib.Path) -> tuple[TrainState, int]:
  """The state of a run folder's best checkpoint, and its update.

  Raises:
    UserError: when the folder holds no scored checkpoint.
  """
  checkpoints = Checkpoints(workdir, read_only=True)
  best = checkpoints.best()
  if best is None:
    raise UserError(f'{workdir} holds no scored checkpoint yet; let the run go on first')
  state, _ = checkpoints.restore(best, session.fresh_state(jax.random.key(0)))
  return state, best


def _check_batch(what: str, size: int, mesh: Mesh) -> None:
  if size < 1 or size % mesh.size:
    raise UserError(
      f'{what} = {size} cannot be shared evenly by {mesh.size} devices; choose a multiple of '
      f'{mesh.size}'
    )
