"""Summarizes the scores of explanations over runs and images: means, gains and differences."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from attn_flax.study import statistics
from attn_flax.study.explain import MAP, Explained
from attn_flax.study.explanations import SCORES, Control, Explanations, Score


class SeedImages(NamedTuple):
  """The images that were explained for one seed, as positions in the test images.

  Attributes:
    localized: the images with localization scores.
    perturbed: the images with insertion, deletion and ROAD.
  """

  localized: np.ndarray
  perturbed: np.ndarray


# Scores that depend on how confident a network is, so that they do not compare two networks.
OF_CONFIDENCE = ('insertion', 'deletion', 'road')

# {source: [S, n]}, NaN where an image was not scored; a source is `MAP` or a control.
Table = dict[str, np.ndarray]


def summarize(
  explained: Mapping[str, Mapping[int, Explained]],
  images: Mapping[int, SeedImages],
  count: int,
  baseline: str,
  own_maps: Mapping[str, Sequence[str]],
) -> dict[str, Explanations]:
  """The scores of all variants, over their runs and images.

  Args:
    explained: the scores of each run, {variant: {seed: scores}}.
    images: the images that were explained, {seed: images}.
    count: number of test images.
    baseline: the variant that the others are compared with.
    own_maps: what each variant's own map may show, see `Explanations`.
  """
  tables = {name: _tables(runs, images, count) for name, runs in explained.items()}
  compared: dict[tuple[str, str], dict[str, np.ndarray]] = {}
  for name, of_variant in tables.items():
    for key, table in of_variant.items():
      compared.setdefault(key, {})[name] = _comparable(key[1], table)
  found = {}
  for name, runs in explained.items():
    scores: dict[str, dict[str, Score]] = {}
    for (kind, score), table in tables[name].items():
      others, pair = list(compared[kind, score].values()), None
      if name != baseline and baseline in compared[kind, score]:
        # Each seed has its own images: only the seeds that both have can be paired.
        both = [seed for seed in runs if seed in explained[baseline]]
        ours, theirs = ([list(explained[n]).index(s) for s in both] for n in (name, baseline))
        pair = compared[kind, score][name][ours], compared[kind, score][baseline][theirs]
      scores.setdefault(kind, {})[score] = _score(score, table, pair, others)
    found[name] = Explanations(
      scores,
      empty=float(np.concatenate([run.empty for run in runs.values()]).mean()),
      empty_random=float(np.concatenate([run.empty_random for run in runs.values()]).mean()),
      own_map=own_maps.get(name, ()),
    )
  return found


def _comparable(score: str, table: Table) -> np.ndarray:
  """The values that networks are compared by, [S, n]; for `OF_CONFIDENCE`, gains over chance."""
  return table[MAP] - table[Control.RANDOM_MAP] if score in OF_CONFIDENCE else table[MAP]


def _score(
  score: str, table: Table, pair: tuple[np.ndarray, np.ndarray] | None, others: list
) -> Score:
  """A score; `pair` has the values of the variant and the baseline for the seeds that both have."""
  values = table[MAP]
  upwards = SCORES[score]
  enough = len(values) >= statistics.FEWEST_SEEDS
  gains = {
    source: statistics.paired(values - other if upwards else other - values) if enough else None
    for source, other in table.items()
    if source != MAP
  }
  difference = None
  verdict: str = ''
  if pair is not None and len(pair[0]):
    estimate = statistics.difference(
      *pair,
      seeds=statistics.seed_variance(others),
      comparisons=len(others) - 1,
    )
    verdict = statistics.verdict(estimate, lower_is_better=not upwards)
    difference = estimate if estimate.seeds >= statistics.FEWEST_SEEDS else None
  return Score(
    value=_mean(values),
    images=int(np.isfinite(values).sum()),
    controls={source: _mean(other) for source, other in table.items() if source != MAP},
    gains=gains,
    difference=difference,
    verdict=verdict,
  )


def _mean(values: np.ndarray) -> float:
  """The mean of the runs' means, so that each run has the same weight."""
  return float(np.nanmean(values, axis=1).mean())


def _tables(
  runs: Mapping[int, Explained], images: Mapping[int, SeedImages], count: int
) -> dict[tuple[str, str], Table]:
  """The values of all runs of a variant, {(kind of map, score): table}; `count` test images."""
  parts: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}
  for seed, run in runs.items():
    for scored, index in (
      (run.localization, images[seed].localized),
      (run.perturbation, images[seed].perturbed),
    ):
      for kind, scores in scored.items():
        for score, sources in scores.items():
          for source, values in sources.items():
            row = np.full((count, *values.shape[1:]), np.nan)
            row[index] = values
            parts.setdefault((kind, score), {}).setdefault(source, []).append(row)
  tables = {
    key: {source: np.stack(rows) for source, rows in sources.items()}
    for key, sources in parts.items()
  }
  tables = {key: table for key, table in tables.items() if not np.isnan(table[MAP]).all()}
  for (_, score), table in tables.items():
    if score == 'iou':
      table.update({source: _best_threshold(values) for source, values in table.items()})
  return tables


def _best_threshold(values: np.ndarray) -> np.ndarray:
  """IoUs [S, n], from [S, n, thresholds], at the threshold with the highest mean IoU."""
  best = np.nanmean(values, axis=(0, 1)).argmax()
  return values[..., best].copy()  # A view would keep all thresholds in memory.
