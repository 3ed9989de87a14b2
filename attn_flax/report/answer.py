"""The answer of a study in a few sentences, made of the same numbers as its tables."""

from collections.abc import Sequence

from attn_flax.report import formats
from attn_flax.report.pages import wording
from attn_flax.report.tables.scores import beaten, find
from attn_flax.study.findings import Findings, Variant


def answer(findings: Findings) -> list[str]:
  """Sentences: who is better or worse, what it costs, and whether it looks at the object."""
  base = next(v for v in findings.variants if v.name == findings.baseline)
  others = [variant for variant in findings.variants if variant is not base]
  sentences = []
  if base.performance:
    words, seeds = wording(findings), base.performance.seeds
    achieves = words.achieves.format(
      value=words.best.number(base.performance.best.value),
      images=formats.number(findings.test_images, 0),
    )
    sentences.append(
      f'The baseline, {base.name}, {achieves} ({seeds} {"seed" if seeds == 1 else "seeds"}).'
    )
  else:
    sentences.append(f'No run of {base.name}, the baseline, has finished.')
  if not others:
    sentences.append('There is no variant to compare it with.')
  sentences += _verdicts([variant for variant in others if variant.performance])
  missing = [variant.name for variant in others if not variant.performance]
  if missing:
    sentences.append(f'No run of {formats.listing(missing)} has finished.')
  return [*sentences, *_costs(others), *_looks(findings)]


def _verdicts(variants: Sequence[Variant]) -> list[str]:
  groups: dict[str, list[Variant]] = {}
  for variant in variants:
    if variant.performance:
      groups.setdefault(variant.performance.verdict, []).append(variant)
  clauses = []
  for verdict in ('better', 'worse'):
    if named := groups.get(verdict):
      ranked = sorted(named, key=lambda v: -abs(_mean(v)))
      verb = 'is' if len(named) == 1 else 'are'
      clauses.append(f'{verdict} {verb} {formats.listing([_numbered(v) for v in ranked])}')
  if named := groups.get('no difference shown'):
    clauses.append(f'no difference is shown for {formats.listing([_numbered(v) for v in named])}')
  sentences = []
  if clauses:
    text = '; '.join(clauses)
    sentences.append(f'{text[0].upper()}{text[1:]} (percentage points with 95 % intervals).')
  found = [
    (v.performance.detectable, v.name)
    for v in variants
    if v.performance and v.performance.detectable
  ]
  if found:
    (least, first), (most, last) = min(found), max(found)
    size = f'{formats.percent(most)} points'
    if formats.percent(least) != formats.percent(most):
      size = f'{formats.percent(least)} ({first}) to {formats.percent(most)} ({last}) points'
    sentences.append(f'The study would have found a difference of {size} in four of five cases.')
  if named := groups.get('not enough seeds'):
    sentences.append(
      f'Not enough seeds for a verdict on {formats.listing([v.name for v in named])}: it takes'
      ' three finished runs of the variant and of the baseline.'
    )
  return sentences


def _mean(variant: Variant) -> float:
  found = variant.performance
  return found.difference.mean if found and found.difference else 0.0


def _numbered(variant: Variant) -> str:
  """A name with its difference: 'se (+0.60 [+0.20, +1.00])'."""
  found = variant.performance
  if found is None or found.difference is None:
    return variant.name
  bounds = formats.interval(found.difference, 2, 100)
  return f'{variant.name} ({f"{formats.points(found.difference.mean)} {bounds}".strip()})'


def _costs(variants: Sequence[Variant]) -> list[str]:
  priced = [(v.cost.step_ms.ratio, v.cost.latency_ms.ratio, v.name) for v in variants if v.cost]
  if not priced:
    return []
  steps = [f'{formats.times(step)} ({name})' for step, _, name in sorted(priced)]
  text = f'A training step takes {formats.listing(steps)} of the baseline’s'
  if len(priced) == 1:
    return [f'{text}, and the latency of one image is {formats.times(priced[0][1])}.']
  _, latency, slowest = max(priced, key=lambda row: row[1])
  return [f'{text}; the latency of one image is at most {formats.times(latency)} ({slowest}).']


def _looks(findings: Findings) -> list[str]:
  """Grad-CAM against its controls, by the first score of localization that there is."""
  for name, what in (('energy_mask', 'energy inside the mask'), ('pointing', 'pointing game')):
    scores = [(v.name, find(v, 'Grad-CAM', name)) for v in findings.variants]
    found = [(variant, score) for variant, score in scores if score is not None]
    tested = [variant for variant, score in found if any(beaten(score))]
    if not tested:
      continue
    above = [variant for variant, score in found if beaten(score)[0] and not beaten(score)[1]]
    every = len(above) == len(tested) > 1
    who = 'every network' if every else formats.listing(above) or 'none of the networks'
    text = f'Grad-CAM lies on the object more than all its controls do for {who} ({what})'
    for verdict in ('better', 'worse'):
      if named := [variant for variant, score in found if score.verdict == verdict]:
        text += f'; it is {verdict} than the baseline’s for {formats.listing(named)}'
    return [f'{text}.']
  return []
