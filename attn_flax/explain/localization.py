"""Whether a map lies on the object: scores against masks of the labeled object.

Pointing game: Zhang et al., "Top-down Neural Attention by Excitation Backprop" (ECCV 2016,
https://arxiv.org/abs/1608.00507).
Energy inside: Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
Networks" (CVPR workshops 2020, https://arxiv.org/abs/1910.01279), there 'energy-based pointing
game'.
IoU at a threshold: Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right"
(CVPR 2020, https://arxiv.org/abs/2001.07437).

Departures from the papers: maps are not shifted to a minimum of 0, which would give an empty map
large values. A map without a positive value, or with a value that is not finite, is empty and
counts as a miss. Pixels that tie for the maximum share the score, so that a constant map scores at
chance. The pointing game allows no distance by default (the paper: 15 pixels). The IoU is that of
masks, not of the boxes around them.

Maps are [N, h, w] of any resolution up to that of the masks, to which they are scaled up; scores,
and whether a map is empty, are those of the scaled map. Where a mask is empty, the score is NaN.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from attn_flax.errors import UserError, check_range
from attn_flax.explain.maps import points_nowhere, upscale
from attn_flax.explain.taps import as_array, as_floats

# Values this close to the maximum, relative to it, count as equal: only rounding separates them.
_TIE = 1e-6
_MOST_TOLERANCE = 2**14  # The side of the largest image.


def pointing_game(maps: jax.Array, masks: jax.Array, tolerance: int = 0) -> jax.Array:
  """Whether the map's maximum lies on the object.

  Args:
    maps: [N, h, w].
    masks: [N, H, W] bool.
    tolerance: the largest distance from the object, in pixels, at which the maximum still counts.

  Returns:
    [N] float32 in 0..1: 1 for a hit, 0 for a miss; where several pixels are largest, the share of
    them that lie on the object. By chance: the mask's share of the image.

  Raises:
    UserError: for shapes that do not fit, or a negative tolerance.
  """
  check_range('tolerance', tolerance, 0, _MOST_TOLERANCE, whole=True)
  return _pointing_game(*_checked(maps, masks), tolerance)


@functools.partial(jax.jit, static_argnames='tolerance')
def _pointing_game(maps: jax.Array, masks: jax.Array, tolerance: int) -> jax.Array:
  is_peak = _shares(maps, masks)[0] >= 1 - _TIE
  hits = (is_peak & _grown(masks, tolerance)).sum((1, 2))
  return _scored(hits / jnp.maximum(is_peak.sum((1, 2)), 1), masks)


def energy_inside(maps: jax.Array, masks: jax.Array) -> jax.Array:
  """The share of the sum of the map's positive values that lies on the object.

  Args:
    maps: [N, h, w].
    masks: [N, H, W] bool.

  Returns:
    [N] float32 in 0..1; 0 for an empty map. By chance: the mask's share of the image.

  Raises:
    UserError: for shapes that do not fit.
  """
  return _energy_inside(*_checked(maps, masks))


@jax.jit
def _energy_inside(maps: jax.Array, masks: jax.Array) -> jax.Array:
  energy = jnp.maximum(_shares(maps, masks)[0], 0)
  total = energy.sum((1, 2))
  inside = jnp.where(masks, energy, 0).sum((1, 2))
  return _scored(inside / jnp.where(total > 0, total, 1), masks)


def threshold_iou(maps: jax.Array, masks: jax.Array, thresholds: jax.Array) -> jax.Array:
  """Intersection over union of the object and the pixels that the map marks at each threshold.

  A set of images has one threshold: take the mean over the images first and then the best
  threshold, not the best threshold for each image.

  Args:
    maps: [N, h, w].
    masks: [N, H, W] bool.
    thresholds: [T] in 0..1, shares of each map's maximum; pixels of at least that value are marked.

  Returns:
    [N, T] float32 in 0..1; 0 for an empty map.

  Raises:
    UserError: for shapes that do not fit.
  """
  shares = as_floats('thresholds', thresholds)
  if shares.ndim != 1:
    raise UserError(f'thresholds of shape {shares.shape} are impossible; give [T] in 0..1')
  return _threshold_iou(*_checked(maps, masks), shares)


@jax.jit
def _threshold_iou(maps: jax.Array, masks: jax.Array, thresholds: jax.Array) -> jax.Array:
  shares, empty = _shares(maps, masks)

  def iou(threshold: jax.Array) -> jax.Array:
    marked = (shares >= threshold - _TIE) & ~empty
    either = (marked | masks).sum((1, 2))
    return _scored((marked & masks).sum((1, 2)) / jnp.maximum(either, 1), masks)

  # One threshold after the other, in the memory of one.
  return lax.map(iou, jnp.asarray(thresholds, jnp.float32)).T


def _checked(maps: object, masks: object) -> tuple[jax.Array, jax.Array]:
  """Maps and masks as arrays; raises `UserError` where they do not fit each other."""
  map_array, mask_array = as_floats('maps', maps), as_array('masks', masks)
  if map_array.ndim != 3:
    raise UserError(f'maps of shape {map_array.shape} are impossible; give [N, h, w]')
  if mask_array.ndim != 3 or mask_array.dtype != bool or len(mask_array) != len(map_array):
    raise UserError(
      f'masks of shape {mask_array.shape} and type {mask_array.dtype} do not fit maps of shape '
      f'{map_array.shape}; give one mask [H, W] of bool for each map'
    )
  return map_array, jnp.asarray(mask_array)


def _shares(maps: jax.Array, masks: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Maps as shares of their maxima, at the masks' size, and which maps are empty.

  Empty maps are zeros; which these are is bool [N, 1, 1].
  """
  large = upscale(maps, *masks.shape[1:])
  # The maximum of the scaled map may lie below that of the small map, and below 0.
  peaks = large.max((1, 2), keepdims=True)
  empty = points_nowhere(large)[:, None, None]
  return jnp.where(empty, 0, large / jnp.where(empty, 1, peaks)), empty


def _scored(scores: jax.Array, masks: jax.Array) -> jax.Array:
  return jnp.where(masks.any((1, 2)), scores, jnp.nan)


def _grown(masks: jax.Array, radius: int) -> jax.Array:
  """Masks that also hold all pixels at most `radius` pixels away."""
  if not radius:
    return masks
  y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
  disc = jnp.asarray(y**2 + x**2 <= radius**2, jnp.float32)[None, None]
  near = lax.conv_general_dilated(masks[:, None].astype(jnp.float32), disc, (1, 1), 'SAME')
  return near[:, 0] > 0.5
