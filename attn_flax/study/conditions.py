"""What the results of a study depend on, and its runs as the report lists them."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from attn_flax.study.findings import Conditions, Environment, Recipe, Run
from attn_flax.study.groups import Member
from attn_flax.study.performance import PredictionsOfRuns, run_scores
from attn_flax.study.plan import run_name
from attn_flax.training import artifacts
from attn_flax.training.config import Config
from attn_flax.training.environment import environment, without_home
from attn_flax.training.experiment import Experiment

# Fields that `Recipe` and `Conditions` hold themselves, and fields without an effect of their own.
_NAMED = (
  'model.name',
  'model.attention',
  'model.dtype',
  'optimizer.name',
  'optimizer.lr_per_256',
  'optimizer.weight_decay',
  'optimizer.schedule',
  'optimizer.warmup_epochs',
  'train.epochs',
  'train.steps',
  'train.batch_size',
  'train.ema_decay',
  'train.accumulate',
  'augment.padding_mode',
  'augment.mix_probability',
)


def run_row(
  variant: str, member: Member, predictions: PredictionsOfRuns, experiment: Experiment
) -> Run:
  """A run as the report lists it."""
  task = experiment.task
  found = predictions.get(variant, {}).get(member.seed)
  command = str(member.record.get('command', ''))
  if 'compare' in command.replace('=', ' ').split() and '--config.only' not in command:
    command += f' --config.only={run_name(variant, member.seed)}'  # Trains this run alone.
  return Run(
    variant=variant,
    seed=member.seed,
    folder=without_home(str(member.folder)),
    command=without_home(command),
    error=without_home(member.error),
    scores={} if found is None else run_scores(task, found),
    curves=_curves(member.folder, ('loss', task.best), experiment.updates_per_epoch),
    trained=_environment(member.record) if member.record else None,
  )


def _curves(workdir: pathlib.Path, names: Sequence[str], updates_per_epoch: int) -> dict[str, list]:
  """Metrics that a run logged, by split, see `Run.curves`; in training, means between validations.

  Args:
    workdir: the run folder.
    names: the metrics.
    updates_per_epoch: updates per pass over the training split.
  """
  if not (workdir / artifacts.File.METRICS).exists():
    return {}
  rows = artifacts.read_metrics(workdir)
  curves: dict[str, list] = {'train': [], 'validation': []}
  window: list[dict[str, float]] = []
  keys = {name: artifacts.score_name('val', name) for name in names}
  for row in rows:
    scored = {name: row[key] for name, key in keys.items() if key in row}
    if not scored:
      window.append(row)
      continue
    epoch = row['step'] / updates_per_epoch
    curves['validation'].append((epoch, scored))
    if window:
      logged = [name for name in names if all(name in one for one in window)]
      means = {name: float(np.mean([one[name] for one in window])) for name in logged}
      curves['train'].append((epoch, means))
    window = []
  return curves


def conditions(
  experiment: Experiment, swept: Mapping[str, float] | None, minutes: float
) -> Conditions:
  """What the results depend on besides the attention.

  Args:
    experiment: what the runs share.
    swept: the learning rate of each variant where a sweep chose it; None otherwise.
    minutes: how long evaluating, timing and explaining the runs took.
  """
  config, here = experiment.config, environment()
  optimizer, train = config.optimizer, config.train
  return Conditions(
    network=config.model.name,
    dtype=config.model.dtype,
    side=experiment.image_shape[0],
    examples={name: len(split) for name, split in experiment.dataset.splits.items()},
    recipe=Recipe(
      updates=experiment.updates,
      epochs=experiment.updates / experiment.updates_per_epoch,
      batch_size=train.batch_size,
      optimizer=optimizer.name,
      lr_per_256=optimizer.lr_per_256,
      swept=swept,
      schedule=optimizer.schedule,
      warmup_epochs=optimizer.warmup_epochs,
      weight_decay=optimizer.weight_decay,
      moving_average=train.ema_decay is not None,
      further=_further(config),
    ),
    measured=_environment(here),
    command=without_home(str(here['command'])),
    minutes=minutes,
  )


def _further(config: Config) -> dict[str, object]:
  """The fields of the config that have an effect and no attribute of `Recipe`, with values."""
  fields = {
    f'{part}.{field}': value
    for part in ('model', 'train', 'augment', 'optimizer')
    for field, value in config[part].items()
  }
  source = config.init_from
  fields |= {'init_from': source and without_home(source), 'data.balanced': config.data.balanced}
  idle = {*_NAMED}
  if config.optimizer.name != 'sgd':
    idle |= {'optimizer.momentum', 'optimizer.nesterov'}
  if config.optimizer.schedule != 'step':
    idle |= {'optimizer.step_epochs', 'optimizer.step_factor'}
  return {field: value for field, value in fields.items() if value and field not in idle}


def _environment(record: artifacts.Json) -> Environment:
  """The environment of a run or a study, from the record in its `config.json`."""
  return Environment(
    device=record.get('device'),
    commit=record.get('commit'),
    python=record.get('python'),
    packages=record.get('packages', {}),
    date=record.get('date'),
    device_count=record.get('device_count'),
    cpu_count=record.get('cpu_count'),
  )
