"""The facts of a study in words: its title, its networks and the conditions it ran under."""

from collections.abc import Callable, Sequence

from attn_flax.report import formats
from attn_flax.report.pages import wording
from attn_flax.study.findings import Environment, Findings, Mechanism, Recipe, Variant

_OWN_MAPS = {'gate': 'spatial gate', 'received': 'attention received'}


def title(findings: Findings) -> str:
  """The title of the report."""
  return f'Attention in {findings.conditions.network} on {findings.dataset}'


def mechanism(variant: Variant) -> str:
  """A network's attention: mechanisms, places, and the fields that differ from their defaults.

  For attention-augmented convolutions also the key and value dimensions in each stage. 'none'
  without attention, '' where it is not known.
  """
  if variant.mechanisms is None:
    return ''
  parts = [_place(one) for one in variant.mechanisms]
  for stage, (keys, values, features) in variant.shares.items():
    parts.append(
      f'stage {stage}: {keys} key and {values} value dimensions, {features} output channels'
    )
  return '; '.join(parts) or 'none'


def _place(one: Mechanism) -> str:
  every = '' if one.every == 1 else f', every {one.every} blocks'
  start = '' if one.start == 'paper' else f', start={one.start}'
  stages = f'stage{"" if len(one.stages) == 1 else "s"} {", ".join(map(str, one.stages))}'
  fields = ''.join(f', {name}={value}' for name, value in one.fields.items())
  return f'{one.name} at {one.where}, {stages}{every}{start}{fields}'


def own_map(kinds: Sequence[str]) -> str:
  """Describes a network's own map, see `explain.own_map`; '' where it has none."""
  if not kinds:
    return ''
  which = ' or '.join(_OWN_MAPS[kind] for kind in kinds)
  whichever = ', whichever acts last' if len(kinds) > 1 else ''
  return f'{which}{whichever}, mean over the blocks of the last stage where it acts'


def conditions(findings: Findings) -> dict[str, str]:
  """What the results depend on besides the attention, {name: value} in the order of printing."""
  found, trained = findings.conditions, findings.trained
  runs = [run for variant in findings.variants for run in variant.runs if run.trained]
  here = found.measured
  sizes = ', '.join(f'{formats.number(count, 0)} {name}' for name, count in found.examples.items())

  def each(value: Callable[[Environment], object], separator: str = ', ') -> str:
    """The distinct values of all environments that runs were trained in."""
    return separator.join(sorted({str(value(one)) for one in trained}))

  return {
    'dataset': f'{findings.dataset}, {found.side}x{found.side} pixels, {sizes} images',
    'network': found.network,
    'recipe': _recipe(found.recipe),
    'weights': f'checkpoint with the best validation {wording(findings).quality}'
    + (', moving average of the weights' if found.recipe.moving_average else ''),
    'seeds': ', '.join(str(seed) for seed in sorted({run.seed for run in runs})),
    'dtype': found.dtype,
    'trained on': each(lambda one: one.device),
    'trained with commit': each(lambda one: one.commit),
    'trained with versions': each(_versions, '; '),
    'trained at': _span([one.date for one in trained if one.date]),
    'measured on': f'{here.device}, {_counted(here.device_count, "device")},'
    f' {_counted(here.cpu_count, "CPU core")}',
    'measured with commit': str(here.commit),
    'measured at': str(here.date),
    'measured with versions': _versions(here),
    'command': found.command,
    'measured in': f'{found.minutes:.1f} minutes',
  }


def _recipe(recipe: Recipe) -> str:
  rate = f'{recipe.lr_per_256:g} per 256 images'
  if recipe.swept is not None:
    rate = 'per 256 images chosen by a sweep: '
    rate += ', '.join(f'{value:g} ({name})' for name, value in recipe.swept.items())
  further = ''.join(f', {name} {value}' for name, value in recipe.further.items())
  return (
    f'{_counted(recipe.updates, "update")} of {_counted(recipe.batch_size, "image")}'
    f' ({_counted(recipe.epochs, "epoch")}), '
    f'{recipe.optimizer}, learning rate {rate}, {recipe.schedule} schedule, warm-up of '
    f'{_counted(recipe.warmup_epochs, "epoch")}, weight decay {recipe.weight_decay:g}{further}'
  )


def _counted(count: float | None, noun: str) -> str:
  """A number and its noun, in the plural unless it is 1."""
  text = formats.number(count, 0) if isinstance(count, int | None) else f'{count:g}'
  return f'{text} {noun}{"" if count == 1 else "s"}'


def _versions(environment: Environment) -> str:
  packages = ''.join(f', {name} {version}' for name, version in environment.packages.items())
  return f'Python {environment.python}{packages}'


def _span(dates: Sequence[str]) -> str:
  return f'{min(dates)} to {max(dates)}' if dates else 'unknown'
