"""What the results of a study depend on, in words."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from attn_flax.attention import ATTENTION
from attn_flax.costs import count as cost
from attn_flax.explain import attention_maps, attention_received, own_map
from attn_flax.models.placement import Placement
from attn_flax.study.accuracy import Logits, hits, top5
from attn_flax.study.findings import Run
from attn_flax.study.groups import Groups, Member
from attn_flax.training import run_folder
from attn_flax.training.experiment import Experiment

# What a hybrid is made of says more than its name.
_ALWAYS_SAID = ('channel', 'spatial')
# Fields that a report names in words, and those that mean nothing without others.
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


def describe(model: nn.Module, image_shape: tuple[int, ...]) -> str:
  """A network's attention in words: what and where, and the fields that are not the usual ones.

  Of augmented convolutions also what kappa and upsilon come to in each stage.
  """
  placements: Sequence[Placement] = getattr(model, 'attention', ())
  parts = []
  for placement in placements:
    every = '' if placement.every == 1 else f', every {placement.every} blocks'
    start = '' if placement.start == 'paper' else f', from the {placement.start}'
    stages = ', '.join(map(str, placement.stages))
    fields = ''.join(f', {name}={value}' for name, value in _unusual(placement).items())
    where = f'{placement.where}, stages {stages}{every}{start}{fields}'
    parts.append(f'{_name(placement)} at {where}')
  for stage, (keys, values, features) in augmented_shares(model, image_shape).items():
    parts.append(f'stage {stage}: {keys} key and {values} value dimensions of {features}')
  return '; '.join(parts) or 'none'


def _unusual(placement: Placement) -> dict[str, Any]:
  """The fields of a mechanism that differ from its class's."""
  usual = {field.name: field.default for field in dataclasses.fields(placement.module)}
  said = {name: value for name, value in usual.items() if name in _ALWAYS_SAID}
  fields = {**said, **dict(placement.fields)}
  return {
    name: value
    for name, value in fields.items()
    # A field with a value for each stage is usual where each of them is.
    if name in _ALWAYS_SAID
    or (value != usual[name] and not (isinstance(value, tuple) and set(value) == {usual[name]}))
  }


def describe_own_map(model: nn.Module, image_shape: tuple[int, ...]) -> str:
  """What a network's own map is, in words; '' where it has none."""
  variables = cost.abstract_variables(model, image_shape)
  images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)

  def shapes(function):
    return jax.eval_shape(lambda v, x: function(model, v, x), variables, images)

  if shapes(own_map) is None:
    return ''
  gates = any(not path.endswith('/channel_gate') for path in shapes(attention_maps))
  kinds = ['spatial gate'] * gates + ['attention received'] * bool(shapes(attention_received))
  which = ' or '.join(kinds) + (', whichever acts last' if len(kinds) > 1 else '')
  return f'mean {which}, over the last stage where it acts'


def mechanisms(model: nn.Module) -> set[str]:
  """Names of the mechanisms in a network that attend with anything."""
  placements: Sequence[Placement] = getattr(model, 'attention', ())
  return {_name(one) for one in placements if np.any(dict(one.fields).get('upsilon', 1))}


def _name(placement: Placement) -> str:
  names = [name for name, module in ATTENTION.items() if module is placement.module]
  return names[0] if names else placement.module.__name__


def augmented_shares(
  model: nn.Module, image_shape: tuple[int, ...]
) -> dict[int, tuple[int, int, int]]:
  """What kappa and upsilon come to: (dk, dv, features) of each stage with augmented convolutions.

  Read off the weights, so that it holds after all rounding and least dimensions.
  """
  params = flax.traverse_util.flatten_dict(cost.abstract_variables(model, image_shape)['params'])
  shapes = {'/'.join(path): leaf.shape for path, leaf in params.items()}
  shares = {}
  for path, shape in shapes.items():
    block, found, _ = path.partition('/conv_attention/qkv/kernel')
    if found:
      values = shapes[f'{block}/conv_attention/output/kernel'][-1]
      convolved = shapes.get(f'{block}/conv_attention/conv/kernel', (0,))[-1]
      stage = int(block.removeprefix('stage').partition('_')[0])
      shares[stage] = ((shape[-1] - values) // 2, values, values + convolved)
  return shares


def run_row(
  variant: str, member: Member, logits: Logits, labels: np.ndarray, updates_per_epoch: int
) -> Run:
  """A run as a row of the report."""
  found = logits.get(variant, {}).get(member.seed)
  fives = None if found is None else top5([found], labels)
  command = member.record.get('command', '')
  if 'compare' in command.replace('=', ' ').split() and '--config.only' not in command:
    command += f' --config.only={variant}/seed{member.seed}'  # This run of the study alone.
  return Run(
    variant=variant,
    seed=member.seed,
    folder=str(member.folder),
    command=command,
    error=member.error,
    top1=None if found is None else float(hits(found, labels).mean()),
    top5=None if fives is None else fives[0],
    curves=_curves(member.folder / 'metrics.jsonl', updates_per_epoch),
  )


def _curves(path: pathlib.Path, updates_per_epoch: int) -> dict[str, list]:
  """What a run logged, by epoch; for training the means between validations."""
  if not path.exists():
    return {}
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  curves: dict[str, list] = {'train': [], 'validation': []}
  window: list[dict[str, float]] = []
  for row in rows:
    if 'val_loss' not in row:
      window.append(row)
      continue
    epoch = row['step'] / updates_per_epoch
    scores = {name: row[f'val_{name}'] for name in ('loss', 'top1')}
    curves['validation'].append((epoch, scores))
    if window:
      means = {n: float(np.mean([one[n] for one in window])) for n in ('loss', 'top1')}
      curves['train'].append((epoch, means))
    window = []
  return curves


def conditions(
  experiment: Experiment, groups: Groups, rates: Mapping[str, float] | None
) -> dict[str, str]:
  """What the results depend on beside the attention, name to value."""
  config, here = experiment.config, run_folder.environment()
  members = [member for found in groups.values() for member in found if member.record]

  def trained(field: str) -> str:
    """The values of a field over the runs, where they were trained."""
    return ', '.join(sorted({str(member.record.get(field)) for member in members}))

  optimizer, train = config.optimizer, config.train
  rate = f'{optimizer.lr_per_256:g} per 256 images'
  if rates is not None:
    rate = 'per 256 images by sweep, ' + ', '.join(f'{n}: {r:g}' for n, r in rates.items())
  sizes = ', '.join(f'{len(split):,} {name}' for name, split in experiment.dataset.splits.items())
  side = experiment.image_shape[0]
  return {
    'dataset': f'{config.data.name}, {side}x{side} pixels, {sizes} images',
    'network': config.model.name,
    'recipe': (
      f'{experiment.updates:,} updates of {train.batch_size} images '
      f'({experiment.updates / experiment.updates_per_epoch:g} epochs), {optimizer.name}, '
      f'learning rate {rate}, {optimizer.schedule} schedule, warm-up of '
      f'{optimizer.warmup_epochs:g} epochs, weight decay {optimizer.weight_decay:g}'
      + ''.join(f', {name} {value}' for name, value in _further(config).items())
    ),
    'weights': 'those of the epoch with the best validation accuracy'
    + (', moving average' if train.ema_decay is not None else ''),
    'seeds': ', '.join(str(seed) for seed in sorted({member.seed for member in members})),
    'dtype': config.model.dtype,
    'trained on': trained('device'),
    'trained with commit': trained('commit'),
    'trained with versions': '; '.join(sorted({_versions(m.record) for m in members})),
    'trained at': _span([str(member.record.get('date', '')) for member in members]),
    'measured on': f'{here["device"]}, {here["device_count"]} device(s), {here["cpu_count"]} cores',
    'measured with commit': str(here['commit']),
    'measured at': here['date'],
    'measured with versions': _versions(here),
    'command': here['command'],
  }


def _further(config: Any) -> dict[str, Any]:
  """What training does beside the fields that every report names, field to value."""
  fields = {
    f'{part}.{field}': value
    for part in ('model', 'train', 'augment', 'optimizer')
    for field, value in config[part].items()
  }
  fields |= {'init_from': config.init_from, 'data.balanced': config.data.balanced}
  idle = {*_NAMED}
  if config.optimizer.name != 'sgd':
    idle |= {'optimizer.momentum', 'optimizer.nesterov'}
  if config.optimizer.schedule != 'step':
    idle |= {'optimizer.step_epochs', 'optimizer.step_factor'}
  return {field: value for field, value in fields.items() if value and field not in idle}


def _versions(record: Mapping[str, Any]) -> str:
  packages = record.get('packages', {})
  return f'Python {record.get("python")}' + ''.join(f', {n} {v}' for n, v in packages.items())


def _span(dates: Sequence[str]) -> str:
  known = sorted(date for date in dates if date)
  return f'{known[0]} to {known[-1]}' if known else 'unknown'


def notes(groups: Groups) -> list[str]:
  """Sentences about runs that failed, and about runs that were not made alike."""
  sentences = []
  for name, members in groups.items():
    for member in members:
      if member.error:
        sentences.append(f'{name}, seed {member.seed}, has no result: {member.error}.')
  records = [m.record for members in groups.values() for m in members if m.record]
  for field, what in (('device', 'devices'), ('commit', 'commits'), ('packages', 'versions')):
    values = {json.dumps(record.get(field), sort_keys=True) for record in records}
    if len(values) > 1:
      sentences.append(f'The runs were trained with {len(values)} different {what}.')
  return sentences
