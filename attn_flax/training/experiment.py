"""Builds and checks everything that a config describes, before training begins."""

from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from attn_flax import data
from attn_flax.data.augment.augmentation import MOST_PIXELS, Augmentation
from attn_flax.data.pipeline.open import open_pipeline
from attn_flax.data.pipeline.protocol import Pipeline
from attn_flax.data.pipeline.stream import check_workers
from attn_flax.errors import UserError, check_choice, check_pair, check_range, counted
from attn_flax.models import Network, create_model
from attn_flax.models.placement import field_names
from attn_flax.tasks.names import find_task
from attn_flax.tasks.task import Setting, Task
from attn_flax.training import artifacts, left_open
from attn_flax.training.bounds import check_batch, check_numbers
from attn_flax.training.config import Config, ConfigSection, ModelConfig
from attn_flax.training.optimizer import (
  MOST_STEPS,
  Schedule,
  freeze,
  make_optimizer,
  make_schedule,
)
from attn_flax.training.steps import TrainState, init_state

_LONG_EPOCH = 10**6  # Updates.


class Experiment(NamedTuple):
  """The parts of a run, built from its config.

  Attributes:
    config: the config, as made by `configs/base.py`, with the values that replace its `None`s.
    mesh: all devices on one axis, `data`, over which batches are split.
    dataset: the dataset, with its three splits.
    model: the network.
    task: what the network learns.
    schedule: learning rate by update.
    optimizer: turns gradients into updates.
    augmentation: augmentation and normalization of the images.
    updates: updates of the whole run.
    updates_per_epoch: updates per pass over the training split.
  """

  config: Config
  mesh: Mesh
  dataset: data.Dataset
  model: Network
  task: Task
  schedule: Schedule
  optimizer: optax.GradientTransformation
  augmentation: Augmentation
  updates: int
  updates_per_epoch: int

  @property
  def replicated(self) -> NamedSharding:
    """The sharding of arrays that every device holds in full."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def platform(self) -> str:
    """The platform of the devices, such as 'cpu' or 'gpu'."""
    return self.mesh.devices.flat[0].platform

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(H, W, C) of the images."""
    return self.dataset.image_shape

  def describe_data(self) -> artifacts.Json:
    """The content of `dataset.json`: class names, numbers of images and preprocessing."""
    spec, content = self.dataset.spec, self.dataset.content
    return {
      'name': self.config.data.name,
      'class_names': list(self.dataset.class_names),
      'examples': {name: len(split) for name, split in self.dataset.splits.items()},
      'image_shape': list(self.image_shape),
      'mean': list(spec.mean),
      'std': list(spec.std),
      'resize': self.dataset.resize,
      **({} if content is None else {'content': content}),
    }

  def fresh_state(self, key: jax.Array) -> TrainState:
    """A train state with random weights from a key, on every device."""
    options = options_to_run_once(self.platform)
    make = jax.jit(self._init, out_shardings=self.replicated, compiler_options=options)
    return make(key)

  def abstract_state(self) -> TrainState:
    """The shapes, dtypes and shardings of a train state, as needed to restore one."""

    def with_sharding(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.replicated)

    return jax.tree.map(with_sharding, jax.eval_shape(self._init, jax.random.key(0)))

  def _init(self, key: jax.Array) -> TrainState:
    ema = self.config.train.ema_decay is not None
    return init_state(self.model, self.optimizer, key, self.image_shape, ema=ema)

  def train_pipeline(self) -> Pipeline:
    """The batches of the training split; with `accumulate`, each is one part of a batch."""
    train = self.config.train
    return self._pipeline('train', train.batch_size // train.accumulate, self.config.data.balanced)

  def eval_pipeline(self, split: str) -> Pipeline:
    """The batches that evaluate a split: 'train', 'validation' or 'test'."""
    devices = self.mesh.size
    # Scores do not depend on the batch size, which is rounded up to a multiple of the devices.
    return self._pipeline(split, -(-self.config.eval.batch_size // devices) * devices)

  def _pipeline(self, split: str, batch_size: int, balanced: bool = False) -> Pipeline:
    return open_pipeline(
      self.dataset.splits[split],
      batch_size,
      seed=self.config.seed,
      augmentation=self.augmentation,
      mesh=self.mesh,
      workers=self.config.data.workers,
      balanced=balanced,
    )


def open_experiment(config: Config, *, trains: bool = True, alone: str | None = None) -> Experiment:
  """Builds and checks everything that a config describes; writes nothing but the dataset.

  Args:
    config: the config of a run.
    trains: False to use the network only: batches for training are then not checked.
    alone: a split to score, which may be the only one of its data; see `data.load`.

  Raises:
    UserError: for anything in the config that cannot be run.
  """
  mesh = make_mesh()
  train = config.train
  check_numbers(config)
  if train.batch_size is not None:
    check_batch(train, mesh.size if trains else None)
  check_choice('train.batch_norm', train.batch_norm, ('global', 'per_device'))
  check_workers(config.data.workers)
  check_without_data(config)

  dataset = data.load(
    config.data.name,
    data_dir=config.data.dir,
    size=config.data.size,
    seed=config.data.seed,
    download=config.data.download,
    max_bad=config.data.max_bad,
    max_pixels=config.data.max_pixels,
    enlarge=config.data.enlarge,
    normalize=config.data.normalize,
    alone=alone,
  )
  num_examples = dataset.spec.splits.get('train', 1)  # Without training images, nothing trains.
  config = left_open.with_batches(config, num_examples, mesh.size * train.accumulate)
  train = config.train
  updates_per_epoch = num_examples // train.batch_size
  if trains and not updates_per_epoch:
    raise UserError(
      f'train.batch_size={train.batch_size} exceeds the '
      f'{counted(num_examples, "training image")} of {config.data.name}; choose {num_examples} at '
      'most, or take the recipe photos, which sets the batch size by the number of images'
    )
  updates_per_epoch = max(updates_per_epoch, 1)  # Data to score may be smaller than a batch.
  updates = train.steps or train.epochs * updates_per_epoch
  check_range('the number of updates', updates, 1, MOST_STEPS)
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
  model = left_open.with_stem(model, config, dataset.spec.image_size)
  experiment = Experiment(
    config=config,
    mesh=mesh,
    dataset=dataset,
    model=model,
    task=make_task(config, dataset),
    schedule=schedule,
    optimizer=freeze(optimizer, model.frozen, model.num_stages),
    augmentation=make_augmentation(config.augment, dataset),
    updates=updates,
    updates_per_epoch=updates_per_epoch,
  )
  return experiment._replace(config=resolve(config, experiment))


def check_without_data(config: Config) -> None:
  """Builds the parts of a run on a stand-in for its dataset.

  So a mistake is reported before a dataset is downloaded, prepared or read.

  Raises:
    UserError: for anything in the config that cannot be run with any dataset.
  """
  classes = config.model.num_classes
  num_classes = 1 if classes is None else classes
  make_model(config.model, num_classes)
  # Epochs this long round no length of a schedule.
  schedule = make_schedule(
    config.optimizer, batch_size=256, updates=MOST_STEPS, updates_per_epoch=_LONG_EPOCH
  )
  train = config.train
  make_optimizer(config.optimizer, schedule, clip_norm=train.clip_norm, accumulate=train.accumulate)
  spec = data.DatasetSpec(
    num_classes=num_classes,
    image_size=MOST_PIXELS,
    sizes=(),
    mean=(0.5,),
    std=(0.5,),
    flip=True,
    crop_padding=0,
    splits={},
  )
  dataset = data.Dataset(spec, class_names=('',), splits={}, resize=MOST_PIXELS)
  make_task(config, dataset)
  make_augmentation(config.augment, dataset)


def resolve(config: Config, experiment: Experiment) -> Config:
  """A config with the values that replace its `None`s, read from its experiment."""
  fields = config.to_dict()
  model = experiment.model
  for name in fields['model'].keys() & set(field_names(type(model))) - {'attention'}:
    fields['model'][name] = getattr(model, name)
  for placement in model.attention:
    fields['model']['attention'][placement.where]['stages'] = placement.stages
  for name in fields['augment']:
    fields['augment'][name] = getattr(experiment.augmentation, name)
  fields['data']['size'] = experiment.dataset.spec.image_size
  # Without a size in the config, images smaller than the chosen size were enlarged.
  fields['data']['enlarge'] = config.data.size is None or config.data.enlarge
  return ConfigDict(fields)


def make_augmentation(config: ConfigSection, dataset: data.Dataset) -> Augmentation:
  """The augmentation of a config; fields that are None follow from the dataset.

  Args:
    config: `config.augment`.
    dataset: the dataset.

  Raises:
    UserError: for impossible values.
  """
  spec = dataset.spec
  for name in ('crop_padding', 'cutout'):  # Larger values would leave nothing of an image.
    if config[name] is not None:
      check_range(f'augment.{name}', config[name], 0, spec.image_size, whole=True)
  usual = {'crop_padding': spec.crop_padding, 'flip': spec.flip}
  fields: artifacts.Json = {
    key: usual.get(key) if value is None else value for key, value in config.items()
  }
  if fields['randaugment'] is not None:
    fields['randaugment'] = check_pair('augment.randaugment', fields['randaugment'])
  return Augmentation(mean=spec.mean, std=spec.std, num_classes=len(dataset.class_names), **fields)


def make_task(config: Config, dataset: data.Dataset) -> Task:
  """The task of a config on a dataset.

  Raises:
    UserError: for an unknown task, or a setting that it refuses.
  """
  options = config.train
  if 'train' not in dataset.splits:  # Weights of classes act in training alone.
    options = ConfigDict({**options.to_dict(), 'class_weights': False})
  setting = Setting(options, dataset.class_names, lambda: dataset.splits['train'].label)
  return find_task(config.task, setting)


def options_to_run_once(platform: str) -> dict[str, int] | None:
  """Compiler options for a program that runs about once, such as the initialization of weights.

  On the platform 'cpu', optimizing such a program takes far longer than it saves.
  """
  return {'xla_backend_optimization_level': 0} if platform == 'cpu' else None


def make_mesh() -> Mesh:
  """A mesh of all devices on one axis, `data`."""
  # With the default, explicit axes, JAX refuses to gather by a sharded index.
  return jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))


def make_model(config: ModelConfig, num_classes: int) -> Network:
  """The network of a config for a dataset.

  Args:
    config: `config.model`.
    num_classes: number of classes of the dataset.

  Raises:
    UserError: for a network that cannot be built, or one with another number of classes.
  """
  fields = {key: value for key, value in config.items() if value is not None}
  name, attention = fields.pop('name'), fields.pop('attention').to_dict()
  if fields.setdefault('num_classes', num_classes) != num_classes:
    raise UserError(
      f'model.num_classes={fields["num_classes"]} differs from the {num_classes} of the dataset; '
      'choose the dataset of the network, or leave model.num_classes unset'
    )
  return create_model(name, attention=attention or None, **fields)
