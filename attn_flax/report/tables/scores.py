"""The tables of the explanation scores: an overview, and one table per score with its controls."""

from attn_flax.report import formats
from attn_flax.report.facts import own_map
from attn_flax.report.tables.cells import (
  NO_CELL,
  Cell,
  Column,
  Table,
  Value,
  name_cell,
  verdict_cell,
)
from attn_flax.report.wording import score_heading, score_title
from attn_flax.study.explanations import SCORES, Control, Kind, Score
from attn_flax.study.findings import Findings, Variant
from attn_flax.study.statistics import Verdict

# Kinds of maps and controls by their names in the columns of `results.csv`.
KINDS: dict[str, str] = {Kind.GRAD_CAM: 'gradcam', Kind.OWN_MAP: 'own'}
CONTROLS: dict[str, str] = {
  Control.RANDOM_MAP: 'random',
  Control.GAUSSIAN: 'gaussian',
  Control.FIXED_MAP: 'fixed',
  Control.RANDOM_WEIGHTS: 'random_weights',
}
DIGITS = 3


def find(variant: Variant, kind: str, name: str) -> Score | None:
  """A variant's score `name`, a key of `SCORES`, of a kind of map; None where there is none."""
  scores = variant.explanations.scores if variant.explanations else {}
  return scores.get(kind, {}).get(name)


def beaten(score: Score) -> tuple[list[str], list[str]]:
  """Names of the controls that a score is shown to be better than, and of those where it is not.

  Controls without an interval, because there were too few runs, are in neither list.
  """
  tested = {name: gain for name, gain in score.gains.items() if gain and formats.known(gain)}
  above = [name for name, gain in tested.items() if gain.low > 0]
  return above, [name for name in tested if name not in above]


def overview(findings: Findings) -> Table:
  """Every score of every map, and how many of its controls it is better than."""
  rows = []
  for variant in findings.variants:
    found = variant.explanations
    for kind in KINDS:
      what = own_map(found.own_map) if found and kind == Kind.OWN_MAP else ''
      cells = [name_cell(variant), Cell(kind, what)]
      for name in SCORES:
        score = find(variant, kind, name)
        cells.append(NO_CELL if score is None else _summary(score))
      if kind == Kind.GRAD_CAM and found:
        cells.append(
          Cell(
            formats.percent(found.empty, 1),
            f'{formats.percent(found.empty_random, 1)} with random weights',
            {'gradcam_empty': found.empty, 'gradcam_empty_random_weights': found.empty_random},
            variant.name,
          )
        )
      else:
        cells.append(NO_CELL)
      rows.append(cells)
  columns = [
    Column('variant', numeric=False),
    Column('map', numeric=False),
    *(Column(score_heading(name)) for name in SCORES),
    Column('empty maps, %'),
  ]
  note = (
    '↑ higher is better, ↓ lower is better. “beats all controls”: the map scores better than a'
    ' random map, a centered Gaussian, the best fixed map (how often each pixel lies on the object'
    ' in validation images) and the map of the same network with random weights; the 95 % interval'
    ' of each gain lies above zero. The own map is the spatial gate or the attention of the'
    ' mechanism itself; a purely channel-wise mechanism has none: n/a. A Grad-CAM map that is zero'
    ' everywhere is empty: it counts as a miss in localization and as a random order of pixels in'
    ' insertion, deletion and ROAD. For the network with random weights, an empty map counts as a'
    ' constant map, which scores at chance level.'
  )
  return Table('explanations', 'All scores', columns, rows, note)


def _summary(score: Score) -> Cell:
  above, not_above = beaten(score)
  tested = len(above) + len(not_above)
  if not tested:
    detail = ''
  elif not_above:
    detail = f'beats {len(above)} of {tested} controls'
  else:
    every = tested == len(CONTROLS)
    detail = 'beats all controls' if every else f'beats {tested} of {tested} tested'
  tone = '' if not tested else Verdict.OPEN if not_above else Verdict.BETTER
  return Cell(formats.number(score.value, DIGITS), detail, order=score.value, tone=tone)


def score_table(findings: Findings, name: str) -> Table:
  """One score, a key of `SCORES`, of every map beside its controls."""
  title, higher_is_better = score_title(name), SCORES[name]
  controls = list(CONTROLS)
  rows = []
  for variant in findings.variants:
    for kind, prefix in KINDS.items():
      score = find(variant, kind, name)
      if kind == Kind.OWN_MAP and not (variant.explanations and variant.explanations.own_map):
        continue  # The overview has a row that says so.
      if score is None:
        rows.append([name_cell(variant), NO_CELL, Cell(kind), *[NO_CELL] * (len(controls) + 3)])
        continue
      key = f'{prefix}_{name}'
      images = Cell(formats.number(score.images, 0), '', {f'{key}_n': score.images}, variant.name)
      value = Cell(formats.number(score.value, DIGITS), '', {key: score.value}, variant.name)
      difference = score.difference
      change = Cell(
        formats.signed(difference.mean if difference else None, DIGITS),
        formats.interval(difference, DIGITS),
        {
          f'{key}_difference': difference.mean if difference else None,
          f'{key}_difference_low': difference.low if difference else None,
          f'{key}_difference_high': difference.high if difference else None,
          f'{key}_verdict': score.verdict,
        },
        variant.name,
      )
      verdict = verdict_cell(score.verdict, is_baseline=variant.name == findings.baseline)
      rows.append(
        [
          name_cell(variant),
          verdict,
          Cell(kind),
          value,
          images,
          *(_control(score, control, key, variant.name) for control in controls),
          change,
        ]
      )
  columns = [
    Column('variant', numeric=False),
    Column('verdict', numeric=False),
    Column('map', numeric=False),
    Column('score'),
    Column('n'),
    *(Column(control) for control in controls),
    Column('difference'),
  ]
  note = f'{"Higher" if higher_is_better else "Lower"} is better.'
  return Table(f'score-{name}', title[0].upper() + title[1:], columns, rows, note)


def _control(score: Score, control: str, key: str, variant: str) -> Cell:
  if control not in score.controls:
    return NO_CELL
  gain, column = score.gains.get(control), f'{key}_{CONTROLS[control]}'
  values: dict[str, Value] = {column: score.controls[control]}
  detail = ''
  if gain is not None:
    values |= {f'{column}_gain': gain.mean, f'{column}_gain_low': gain.low}
    values |= {f'{column}_gain_high': gain.high}
    detail = f'{formats.signed(gain.mean, DIGITS)} {formats.interval(gain, DIGITS)}'.strip()
  return Cell(formats.number(score.controls[control], DIGITS), detail, values, variant)
