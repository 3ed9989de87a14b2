"""Makes a run folder from PyTorch weights, like that of a training run, by `--mode=import`."""

import json
import pathlib

import jax
from absl import flags
from ml_collections import ConfigDict

from attn_flax import data
from attn_flax.attention.names import attention_name
from attn_flax.commands import configs
from attn_flax.costs.count import count_params
from attn_flax.errors import UserError
from attn_flax.interop.torch_weights import describe, from_torch
from attn_flax.layers.types import Variables
from attn_flax.models import MODELS
from attn_flax.models.create import PLACEMENT_FIELDS
from attn_flax.models.placement import Fields, Placement, field_names
from attn_flax.models.resnet import ResNet
from attn_flax.training import artifacts, run_folder
from attn_flax.training.checkpoints import Checkpoints
from attn_flax.training.config import Config
from attn_flax.training.experiment import open_experiment
from attn_flax.training.lock import locked
from attn_flax.training.optimizer import freeze, make_optimizer
from attn_flax.training.steps import TrainState


def run(values: flags.FlagValues) -> None:
  """Imports the weights, and prints what was imported, as JSON."""
  if not values.torch or not values.workdir:
    raise UserError('--mode=import needs --torch=<weights> and --workdir=<folder>')
  config = configs.load('base') if values.config is None else values.config
  if 'variants' in config:
    raise UserError(
      '--mode=import takes the config of one run, and this is a study of many; choose another one'
    )
  configs.check_fields(
    values,
    r'(?!model\.).*|model\.dtype',
    'in --mode=import, where the weights decide the network; leave it out',
  )
  try:
    kwargs = json.loads(values.attention_kwargs)
  except ValueError:
    kwargs = None
  if not isinstance(kwargs, dict):
    raise UserError(
      f'--attention_kwargs={values.attention_kwargs} is not a mapping in JSON; write it like '
      '{"pools": ["avg", "max"]}'
    )
  found = import_run(pathlib.Path(values.torch), config, pathlib.Path(values.workdir), kwargs)
  print(json.dumps(found, indent=2))


def import_run(
  source: pathlib.Path,
  config: Config,
  workdir: pathlib.Path,
  attention_kwargs: Fields | None = None,
) -> artifacts.Json:
  """Writes the weights of a PyTorch file as the first checkpoint of a run folder.

  Args:
    source: see `from_torch`.
    config: dataset and recipe of the run; the file decides the network.
    workdir: the run's folder.
    attention_kwargs: see `from_torch`.

  Returns:
    `network`, a description; `params`, their number; `classes`, their number; `workdir`; and
    `dataset`, its name, or why it could not be opened: a network can be imported without it.

  Raises:
    UserError: `from_torch` refuses the file, the weights have no head, the folder already holds a
      run, or the dataset has another number of classes or channels.
  """
  _check_empty(workdir)
  model, variables = from_torch(source, attention_kwargs=attention_kwargs)
  if model.num_classes is None:
    raise UserError(
      f'{source} has no head, which a run needs; train from it with --config.init_from={source}, '
      'which starts with a new head'
    )
  fields = config.to_dict()
  # The file decides all of the network but its dtype.
  fields['model'] = dict.fromkeys(fields['model']) | {'dtype': config.model.dtype}
  fields['model'] |= model_config(model)
  config = ConfigDict(fields)
  dataset, described = config.data.name, None
  try:
    data.load(dataset, data_dir=config.data.dir, size=config.data.size, splits=())
  except UserError as error:
    dataset = f'not opened: {error}'
  else:
    experiment = open_experiment(config, trains=False)
    channels, given = _channels(variables), experiment.image_shape[-1]
    if channels != given:
      raise UserError(
        f'{source} takes images of {channels} channel{"s" if channels > 1 else ""}, and those of '
        f'{dataset} have {given}; choose another dataset, or load the weights with from_torch'
      )
    config, described = experiment.config, experiment.describe_data()

  train = config.train
  # The optimizer's state does not depend on the schedule.
  optimizer = make_optimizer(
    config.optimizer,
    lambda _: jax.numpy.zeros(()),
    clip_norm=train.clip_norm,
    accumulate=train.accumulate,
  )
  ema = None if train.ema_decay is None else jax.tree.map(jax.numpy.copy, variables)
  opt_state = freeze(optimizer, model.frozen, model.num_stages).init(variables['params'])
  state = TrainState(jax.numpy.int32(0), **variables, opt_state=opt_state, ema=ema)

  with locked(workdir):
    _check_empty(workdir)
    run_folder.open_run(workdir, config)
    if described is not None:
      artifacts.write_json(workdir / artifacts.File.DATASET, described)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(0, state, {'train_seconds': 0.0, 'compile_seconds': 0.0}, None)
    checkpoints.close()
  return {
    'network': describe(model),
    'params': count_params(variables),
    'classes': model.num_classes,
    'dataset': dataset,
    'workdir': str(workdir),
  }


def _channels(variables: Variables) -> int:
  """Channels of the images that a network takes."""
  params = variables['params']
  stem = params.get('stem_conv', params.get('stem_conv1'))
  return int(stem['kernel'].shape[-2])


def _check_empty(workdir: pathlib.Path) -> None:
  if artifacts.holds_run(workdir):
    raise UserError(f'{workdir} already holds a run; choose another --workdir')


def model_config(model: ResNet) -> artifacts.Json:
  """The `config.model` that builds a network: the most similar name, and the fields that differ."""
  fields = [name for name in field_names(ResNet) if name != 'attention']
  differing = {
    name: {field for field in fields if getattr(make(), field) != getattr(model, field)}
    for name, make in MODELS.items()
    if isinstance(make(), ResNet)
  }
  nearest = min(differing, key=lambda name: len(differing[name]))
  return {
    'name': nearest,
    'stem': model.stem,  # None would choose it by the size of the images.
    **{field: getattr(model, field) for field in differing[nearest]},
    'attention': {placement.where: _entry(placement) for placement in model.attention},
  }


def _entry(placement: Placement) -> Fields:
  """The entry of the attention mapping that describes a placement."""
  where = {name: getattr(placement, name) for name in PLACEMENT_FIELDS if name != 'name'}
  return {'name': attention_name(placement.module), **where, **dict(placement.fields)}
