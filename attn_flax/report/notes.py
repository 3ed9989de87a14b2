"""The facts of a study as sentences: its networks, its notes and the conditions it ran under."""

from collections.abc import Callable, Sequence

import numpy as np

from attn_flax.report import formats
from attn_flax.report.pages import wording
from attn_flax.study.findings import (
  Cost,
  Environment,
  Findings,
  Mechanism,
  Ratio,
  Recipe,
  Variant,
)

# A variant is called unsteady where the standard deviation between its seeds is more than four
# times the median one of all variants, and more than two points.
_UNSTEADY, _UNSTEADY_LEAST = 4, 0.02
# A variant is named where its times and its multiply-adds, as ratios to the baseline, differ by
# more than this.
_DISAGREEMENT = 0.1
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


def notes(findings: Findings) -> list[str]:
  """Sentences to read before the tables: what went wrong, and what may mislead.

  Each kind of note is one sentence for all variants that it is about; failed runs have one for each
  reason.
  """
  return [
    *_failures(findings),
    *_unlike(findings),
    *_unsteady(findings),
    *_disagreements(findings),
    *_unexplained(findings.unexplained),
  ]


def _failures(findings: Findings) -> list[str]:
  """The runs without a result, one sentence for each reason."""
  reasons: dict[str, dict[str, list[int]]] = {}
  for variant in findings.variants:
    for run in variant.runs:
      if run.error:
        reasons.setdefault(run.error, {}).setdefault(variant.name, []).append(run.seed)
  sentences = []
  for reason, failed in reasons.items():
    runs = formats.listing([f'{name} ({_seeds(seeds)})' for name, seeds in failed.items()])
    sentences.append(f'No result for {runs}: {reason}.')
  return sentences


def _seeds(seeds: Sequence[int]) -> str:
  return f'seed{"s" if len(seeds) > 1 else ""} {formats.listing([str(seed) for seed in seeds])}'


def _unlike(findings: Findings) -> list[str]:
  """Says how many devices, commits and package versions the runs were trained with, if several."""
  trained = _trained(findings)
  counts = {
    'devices': len({one.device for one in trained}),
    'commits': len({one.commit for one in trained}),
    'sets of package versions': len({tuple(sorted(one.packages.items())) for one in trained}),
  }
  differ = [f'{count} different {what}' for what, count in counts.items() if count > 1]
  return [f'The runs were trained with {formats.listing(differ)}.'] if differ else []


def _unsteady(findings: Findings) -> list[str]:
  """Names the variants whose scores vary so much between seeds that a comparison shows little."""
  spreads = {
    v.name: v.performance.best.spread
    for v in findings.variants
    if v.performance and v.performance.best.spread
  }
  usual = float(np.median(list(spreads.values()))) if spreads else 0.0
  wide = [
    f'{name} (standard deviation {formats.percent(spread, 1)} points)'
    for name, spread in spreads.items()
    if spread > max(_UNSTEADY * usual, _UNSTEADY_LEAST)
  ]
  if not wide:
    return []
  return [
    f'Scores vary widely between the seeds of {formats.listing(wide)}; the median standard'
    f' deviation of all variants is {formats.percent(usual, 1)} points. Training is unsteady under'
    ' this recipe: more epochs or a sweep of the learning rate may reduce the spread.'
  ]


def _disagreements(findings: Findings) -> list[str]:
  """Names the variants whose times relative to the baseline differ from their multiply-adds."""
  costs = {variant.name: variant.cost for variant in findings.variants if variant.cost}
  base = costs.get(findings.baseline)
  if base is None:
    return []
  apart = [
    (name, cost.macs / base.macs, sorted(time.ratio for time in _times(cost)))
    for name, cost in costs.items()
    if _disagree(cost, cost.macs / base.macs)
  ]
  if not apart:
    return []
  clauses = [
    f'{name} has {_ratio(macs)} the multiply-adds and takes'
    f' {" to ".join(dict.fromkeys((_ratio(least), _ratio(most))))} the time'
    for name, macs, (least, _, most) in apart
  ]
  return [
    f'Multiply-adds do not predict time here. Relative to {findings.baseline}, {"; ".join(clauses)}'
    ' (smallest to largest ratio among a training step, one image, and an evaluation batch).'
  ]


def _times(cost: Cost) -> tuple[Ratio, ...]:
  return cost.step_ms, cost.latency_ms, cost.throughput_ms


def _disagree(cost: Cost, macs: float) -> bool:
  """Whether both quartiles of a time's ratio are far from that of the multiply-adds, `macs`."""
  return any(
    time.low > macs + _DISAGREEMENT or time.high < macs - _DISAGREEMENT for time in _times(cost)
  )


def _ratio(value: float) -> str:
  return f'×{formats.number(value, 2)}'


def _unexplained(seeds: Sequence[int]) -> list[str]:
  if not seeds:
    return []
  return [
    f'For {_seeds(seeds)}, no test image is predicted correctly by all variants, so no explanations'
    ' are scored.'
  ]


def conditions(findings: Findings) -> dict[str, str]:
  """What the results depend on besides the attention, {name: value} in the order of printing."""
  found, trained = findings.conditions, _trained(findings)
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


def _trained(findings: Findings) -> list[Environment]:
  """The environment that each run was trained in, of runs that have begun."""
  return [run.trained for variant in findings.variants for run in variant.runs if run.trained]


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
