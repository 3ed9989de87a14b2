"""The facts of a study as sentences: what its networks are, what to note, what it depends on."""

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

# A variant is called unsteady where its seeds' standard deviation is more than so many times the
# median one, and more than two points.
_UNSTEADY, _UNSTEADY_LEAST = 4, 0.02
# A variant is named where time and multiply-adds grow by shares that differ by more than this.
_DISAGREEMENT = 0.1
_OWN_MAPS = {'gate': 'spatial gate', 'received': 'attention received'}


def title(findings: Findings) -> str:
  """The title of the report."""
  return f'Attention in {findings.conditions.network} on {findings.dataset}'


def mechanism(variant: Variant) -> str:
  """A network's attention: what and where, and the fields that are not the usual ones.

  For augmented convolutions also what kappa and upsilon come to in each stage.
  """
  if variant.mechanisms is None:
    return ''
  parts = [_place(one) for one in variant.mechanisms]
  for stage, (keys, values, features) in variant.shares.items():
    parts.append(f'stage {stage}: {keys} key and {values} value dimensions of {features}')
  return '; '.join(parts) or 'none'


def _place(one: Mechanism) -> str:
  every = '' if one.every == 1 else f', every {one.every} blocks'
  start = '' if one.start == 'paper' else f', from the {one.start}'
  stages = ', '.join(map(str, one.stages))
  fields = ''.join(f', {name}={value}' for name, value in one.fields.items())
  return f'{one.name} at {one.where}, stages {stages}{every}{start}{fields}'


def own_map(kinds: Sequence[str]) -> str:
  """Describes a network's own map; '' where it has none."""
  if not kinds:
    return ''
  which = ' or '.join(_OWN_MAPS[kind] for kind in kinds)
  whichever = ', whichever acts last' if len(kinds) > 1 else ''
  return f'mean {which}{whichever}, over the last stage where it acts'


def notes(findings: Findings) -> list[str]:
  """Sentences that belong above the tables: what went wrong, and what may mislead.

  Each kind of remark is one sentence, whatever the number of variants that it is about.
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
  return [
    f'{"; ".join(f"{name}, {_seeds(seeds)}" for name, seeds in failed.items())},'
    f' {"has" if sum(map(len, failed.values())) == 1 else "have"} no result: {reason}.'
    for reason, failed in reasons.items()
  ]


def _seeds(seeds: Sequence[int]) -> str:
  return f'seed{"s" if len(seeds) > 1 else ""} {formats.listing([str(seed) for seed in seeds])}'


def _unlike(findings: Findings) -> list[str]:
  """Where the runs were not trained in one environment."""
  trained = _trained(findings)
  counts = {
    'devices': len({one.device for one in trained}),
    'commits': len({one.commit for one in trained}),
    'versions': len({tuple(sorted(one.packages.items())) for one in trained}),
  }
  differ = [f'{count} different {what}' for what, count in counts.items() if count > 1]
  return [f'The runs were trained with {formats.listing(differ)}.'] if differ else []


def _unsteady(findings: Findings) -> list[str]:
  """The variants whose seeds differ so much that a comparison shows little."""
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
    f'The seeds of {formats.listing(wide)} vary widely; the median of all variants is'
    f' {formats.percent(usual, 1)} points. Training is not steady under this recipe; another one,'
    ' such as more epochs or a sweep of the rate, would show more.'
  ]


def _disagreements(findings: Findings) -> list[str]:
  """The variants whose time grows by another share than their multiply-adds."""
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
    f'{name} has {_ratio(macs)} its multiply-adds and takes'
    f' {" to ".join(dict.fromkeys((_ratio(least), _ratio(most))))} its time'
    for name, macs, (least, _, most) in apart
  ]
  return [
    f'Multiply-adds do not predict time. Relative to {findings.baseline}, {"; ".join(clauses)}:'
    ' the least and the greatest of a training step, one image, and a batch in evaluation.'
  ]


def _times(cost: Cost) -> tuple[Ratio, ...]:
  return cost.step_ms, cost.latency_ms, cost.throughput_ms


def _disagree(cost: Cost, macs: float) -> bool:
  """Whether a time is apart from the multiply-adds, only where its spread leaves no doubt."""
  return any(
    time.low > macs + _DISAGREEMENT or time.high < macs - _DISAGREEMENT for time in _times(cost)
  )


def _ratio(value: float) -> str:
  return f'×{formats.number(value, 2)}'


def _unexplained(seeds: Sequence[int]) -> list[str]:
  if not seeds:
    return []
  return [
    f'No test image is answered correctly by all variants of {_seeds(seeds)}: nothing is explained.'
  ]


def conditions(findings: Findings) -> dict[str, str]:
  """What the results depend on beside the attention, name to value, in the order of printing."""
  found, trained = findings.conditions, _trained(findings)
  runs = [run for variant in findings.variants for run in variant.runs if run.trained]
  here = found.measured
  sizes = ', '.join(f'{count:,} {name}' for name, count in found.examples.items())

  def each(value: Callable[[Environment], object], separator: str = ', ') -> str:
    """The values over the runs, where they were trained."""
    return separator.join(sorted({str(value(one)) for one in trained}))

  return {
    'dataset': f'{findings.dataset}, {found.side}x{found.side} pixels, {sizes} images',
    'network': found.network,
    'recipe': _recipe(found.recipe),
    'weights': f'those of the epoch with the best validation {wording(findings).quality}'
    + (', moving average' if found.recipe.moving_average else ''),
    'seeds': ', '.join(str(seed) for seed in sorted({run.seed for run in runs})),
    'dtype': found.dtype,
    'trained on': each(lambda one: one.device),
    'trained with commit': each(lambda one: one.commit),
    'trained with versions': each(_versions, '; '),
    'trained at': _span([one.date for one in trained if one.date]),
    'measured on': f'{here.device}, {here.device_count} device(s), {here.cpu_count} cores',
    'measured with commit': str(here.commit),
    'measured at': str(here.date),
    'measured with versions': _versions(here),
    'command': found.command,
    'measured in': f'{found.minutes:.1f} minutes',
  }


def _trained(findings: Findings) -> list[Environment]:
  """Where the runs were trained."""
  return [run.trained for variant in findings.variants for run in variant.runs if run.trained]


def _recipe(recipe: Recipe) -> str:
  rate = f'{recipe.lr_per_256:g} per 256 images'
  if recipe.swept is not None:
    rate = 'per 256 images by sweep, '
    rate += ', '.join(f'{name}: {value:g}' for name, value in recipe.swept.items())
  further = ''.join(f', {name} {value}' for name, value in recipe.further.items())
  return (
    f'{recipe.updates:,} updates of {recipe.batch_size} images ({recipe.epochs:g} epochs), '
    f'{recipe.optimizer}, learning rate {rate}, {recipe.schedule} schedule, warm-up of '
    f'{recipe.warmup_epochs:g} epochs, weight decay {recipe.weight_decay:g}{further}'
  )


def _versions(environment: Environment) -> str:
  packages = ''.join(f', {name} {version}' for name, version in environment.packages.items())
  return f'Python {environment.python}{packages}'


def _span(dates: Sequence[str]) -> str:
  return f'{min(dates)} to {max(dates)}' if dates else 'unknown'
