"""The scale of colors that maps share: what it spans, and what is said of the rest."""

from collections.abc import Iterable

import numpy as np

from attn_flax.report import formats


def scale(maps: Iterable[np.ndarray], *, from_zero: bool = False) -> tuple[float, float]:
  """The one range of values, lowest and highest, that all of some maps are colored by.

  It reaches from the least to the greatest value, but beyond the middle 90 % of the area no farther
  than these are wide. Each map counts alike, whatever its resolution, as it is drawn.
  """
  values, weights = _pooled(maps)
  if not len(values):
    return 0.0, 1.0
  first, last = np.quantile(values, (0.05, 0.95), weights=weights, method='inverted_cdf')
  # Where nearly all is one value, the rest is what there is to see.
  room = (last - first) or np.inf
  low, high = max(values.min(), first - room), min(values.max(), last + room)
  low = min(low, 0.0) if from_zero else low
  return (float(low), float(high)) if high > low else (float(low), float(low) + 1)


def _pooled(maps: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """The finite values of maps, and their weights: those of a map sum to its finite share."""
  known = [(np.ravel(found), np.isfinite(np.ravel(found))) for found in maps]
  values = [found[finite] for found, finite in known if finite.any()]
  weights = [np.full(finite.sum(), 1 / finite.size) for _, finite in known if finite.any()]
  return (np.concatenate(values), np.concatenate(weights)) if values else (np.zeros(0),) * 2


def beyond(maps: Iterable[np.ndarray], bounds: tuple[float, float]) -> np.ndarray:
  """Shares of the maps' area that lie below and above a scale, [2]."""
  values, weights = _pooled(maps)
  outside = np.stack([values < bounds[0], values > bounds[1]])
  return (outside * weights).sum(1) / max(weights.sum(), 1e-30)


def clipped(shares: np.ndarray, which: str) -> str:
  """Says what share lies beyond a scale; '' for none."""
  share = float(shares.sum())
  if not share:
    return ''
  percent = formats.percent(share, 1) if share >= 0.001 else 'less than 0.1'
  return f' Of the maps’ area, {percent} % lies beyond {which} and has the color of its end.'


def pointed(shares: np.ndarray) -> str:
  """The ends of a color bar that values lie beyond, as matplotlib names them."""
  below, above = (bool(share) for share in shares)
  return {(1, 1): 'both', (1, 0): 'min', (0, 1): 'max', (0, 0): 'neither'}[below, above]
