"""The answer of a study in a few sentences, computed from the same numbers as its tables."""

from collections.abc import Sequence

from attn_flax.report import formats
from attn_flax.report.pages import wording
from attn_flax.report.tables.scores import beaten, find
from attn_flax.report.wording import Title
from attn_flax.study.explanations import Kind
from attn_flax.study.findings import Findings, Variant
from attn_flax.study.statistics import Verdict


def answer(findings: Findings) -> list[str]:
  """Sentences, the verdict first; then baseline, detectable differences, costs and Grad-CAM."""
  base = next(v for v in findings.variants if v.name == findings.baseline)
  others = [variant for variant in findings.variants if variant is not base]
  words = wording(findings)
  sentences = _verdicts(others, base.name, words.best_in_full)
  if not others:
    sentences.append('There is no variant to compare the baseline with.')
  if base.performance:
    seeds = base.performance.seeds
    achieves = words.achieves.format(
      value=words.best.number(base.performance.best.value),
      images=formats.number(findings.test_images, 0),
    )
    sentences.append(
      f'The baseline, {base.name}, {achieves} ({seeds} {"seed" if seeds == 1 else "seeds"}).'
    )
  else:
    # Without a run of the baseline there is no verdict.
    sentences.insert(0, f'No run of {base.name}, the baseline, has finished.')
  missing = [variant.name for variant in others if not variant.performance]
  if missing:
    sentences.append(f'No run of {formats.listing(missing)} has finished.')
  return [*sentences, *_power(others, words.best), *_costs(others), *_looks(findings)]


def _verdicts(variants: Sequence[Variant], baseline: str, score: str) -> list[str]:
  """One sentence on the variants with a verdict, and one on those with too few seeds for it."""
  groups: dict[str, list[Variant]] = {}
  for variant in variants:
    if variant.performance:
      groups.setdefault(variant.performance.verdict, []).append(variant)
  clauses: list[str] = []
  for verdict in (Verdict.BETTER, Verdict.WORSE):
    if named := groups.get(verdict):
      ranked = sorted(named, key=lambda v: -abs(_mean(v)))
      than = '' if clauses else f' than {baseline}'
      verb = 'is' if len(named) == 1 else 'are'
      clauses.append(f'{formats.listing([v.name for v in ranked])} {verb} {verdict}{than}')
  if named := groups.get(Verdict.OPEN):
    base = '' if clauses else f' from {baseline}'
    clauses.append(f'no difference{base} is shown for {formats.listing([v.name for v in named])}')
  sentences = []
  if clauses:
    sentences.append(f'In {score}, {"; ".join(clauses)}.')
  if named := groups.get(Verdict.TOO_FEW):
    sentences.append(
      f'Not enough seeds for a verdict on {formats.listing([v.name for v in named])}: a verdict'
      ' takes three finished runs of the variant and three of the baseline.'
    )
  return sentences


def _power(variants: Sequence[Variant], best: Title) -> list[str]:
  """The smallest true differences that the study finds with 80 % power."""
  compared = [
    (v.performance, v.name) for v in variants if v.performance and v.performance.difference
  ]
  found = [(p.detectable, name) for p, name in compared if p.detectable is not None]
  unseen = formats.listing([name for p, name in compared if p.detectable is None])
  if not found:
    return [f'With 80 % power, the study finds no difference of {unseen}.'] if unseen else []
  (least, first), (most, last) = min(found), max(found)
  if best.number(least) == best.number(most):
    size = best.number(most)
  else:
    size = f'{best.number(least)} ({first}) to {best.number(most)} ({last})'
  none = f'; for {unseen} it finds none, however large' if unseen else ''
  return [
    'The smallest true difference that the study finds with 80 % power is '
    f'{size}{best.points}{none}.'
  ]


def _mean(variant: Variant) -> float:
  found = variant.performance
  return found.difference.mean if found and found.difference else 0.0


def _costs(variants: Sequence[Variant]) -> list[str]:
  priced = [(v.cost.step_ms.ratio, v.cost.latency_ms.ratio, v.name) for v in variants if v.cost]
  if not priced:
    return []
  steps = [f'{formats.times(step)} ({name})' for step, _, name in sorted(priced)]
  text = f'Time relative to the baseline: {formats.listing(steps)} for a training step'
  if len(priced) == 1:
    return [f'{text}, and {formats.times(priced[0][1])} for one image (latency).']
  _, latency, slowest = max(priced, key=lambda row: row[1])
  return [f'{text}; at most {formats.times(latency)} ({slowest}) for one image (latency).']


def _looks(findings: Findings) -> list[str]:
  """Grad-CAM against its controls, by the energy inside the mask or else the pointing game."""
  for name, what in (('energy_mask', 'energy inside the mask'), ('pointing', 'pointing game')):
    scores = [(v.name, find(v, Kind.GRAD_CAM, name)) for v in findings.variants]
    found = [(variant, score) for variant, score in scores if score is not None]
    tested = [variant for variant, score in found if any(beaten(score))]
    if not tested:
      continue
    above = [variant for variant, score in found if beaten(score)[0] and not beaten(score)[1]]
    every = len(above) == len(findings.variants) > 1
    who = 'every network' if every else formats.listing(above) or 'none of the networks'
    text = f'Localization ({what}): Grad-CAM scores better than all its controls for {who}'
    for verdict in (Verdict.BETTER, Verdict.WORSE):
      if named := [variant for variant, score in found if score.verdict == verdict]:
        text += f'; {verdict} than the baseline’s Grad-CAM for {formats.listing(named)}'
    return [f'{text}.']
  return []
