"""The color scale that maps share: its range, and the values that lie beyond it."""

from collections.abc import Iterable

import numpy as np

from attn_flax.report import formats


def scale(maps: Iterable[np.ndarray], *, from_zero: bool = False) -> tuple[float, float]:
  """The range of values that several maps are colored by.

  It reaches from the lowest to the highest value, but extends the range of the middle 90 % of the
  area by at most its own width on either side. Each map has the same weight, whatever its
  resolution.

  Args:
    maps: arrays of any shapes; values that are not finite are ignored.
    from_zero: whether the range must include 0 at its lower end.

  Returns:
    The lowest and the highest value.
  """
  values, weights = _pooled(maps)
  if not len(values):
    return 0.0, 1.0
  first, last = np.quantile(values, (0.05, 0.95), weights=weights, method='inverted_cdf')
  # If the middle 90 % are a single value, nothing is cut off.
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
  """The shares of the maps' area that lie below and above a color scale, [2]."""
  values, weights = _pooled(maps)
  outside = np.stack([values < bounds[0], values > bounds[1]])
  return (outside * weights).sum(1) / max(weights.sum(), 1e-30)


def clipped(shares: np.ndarray, which: str) -> str:
  """A sentence with the share of the area that lies beyond the scale `which`; '' for none."""
  share = float(shares.sum())
  if not share:
    return ''
  percent = formats.percent(share, 1) if share >= 0.001 else 'less than 0.1'
  return f' Of the maps’ area, {percent} % lies beyond {which} and has the color of its end.'


def pointed(shares: np.ndarray) -> str:
  """The ends of a color bar that values lie beyond: 'both', 'min', 'max' or 'neither'."""
  below, above = (bool(share) for share in shares)
  return {(1, 1): 'both', (1, 0): 'min', (0, 1): 'max', (0, 0): 'neither'}[below, above]
