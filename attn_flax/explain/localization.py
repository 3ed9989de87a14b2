"""Does a map lie on the object: scores against masks of the labeled object.

Pointing game: Zhang et al., "Top-down Neural Attention by Excitation Backprop" (ECCV 2016,
https://arxiv.org/abs/1608.00507).
Energy inside: Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
Networks" (CVPR workshops 2020, https://arxiv.org/abs/1910.01279), there 'energy-based pointing
game'.
IoU at a threshold: Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right"
(CVPR 2020, https://arxiv.org/abs/2001.07437).

Departures from the papers: maps are never shifted to a minimum of 0, which would make an empty map
look like a full one; a map without a positive value, or with one that is not finite, is empty, and
a miss. Ties are shared out, so that a constant map scores at chance. The pointing game allows no
distance by default (the paper: 15 pixels). The IoU is that of masks, not of the boxes around
them.

Maps are [N, h, w] of any resolution up to that of the masks, to which they are scaled up; scores,
and whether a map is empty, are those of the large map. An image whose mask is empty has no score:
NaN.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from attn_flax.errors import UserError
from attn_flax.explain.maps import points_nowhere, upscale

# Values as close as this to the maximum, relative to it, are as large: rounding separates them.
_TIE = 1e-6


@functools.partial(jax.jit, static_argnames='tolerance')
def pointing_game(maps: jax.Array, masks: jax.Array, tolerance: int = 0) -> jax.Array:
  """Whether the map's maximum lies on the object.

  Args:
    maps: [N, h, w].
    masks: [N, H, W] bool.
    tolerance: how far from the object, in pixels, the maximum still counts.

  Returns:
    [N] float32 in 0..1: where several pixels are largest, the share of them that lie on the object.
    By chance: the mask's share of the image.

  Raises:
    UserError: shapes that do not fit, or a negative tolerance.
  """
  if tolerance < 0:
    raise UserError(f'tolerance={tolerance} is not allowed; give 0 or a number of pixels')
  is_peak = _shares(maps, masks)[0] >= 1 - _TIE
  hits = (is_peak & _grown(masks, tolerance)).sum((1, 2))
  return _scored(hits / jnp.maximum(is_peak.sum((1, 2)), 1), masks)


@jax.jit
def energy_inside(maps: jax.Array, masks: jax.Array) -> jax.Array:
  """The share of the map's positive values, as a sum, that lies on the object.

  Args:
    maps: [N, h, w].
    masks: [N, H, W] bool.

  Returns:
    [N] float32 in 0..1; 0 for an empty map. By chance: the mask's share of the image.

  Raises:
    UserError: shapes that do not fit.
  """
  energy = jnp.maximum(_shares(maps, masks)[0], 0)
  total = energy.sum((1, 2))
  inside = jnp.where(masks, energy, 0).sum((1, 2))
  return _scored(inside / jnp.where(total > 0, total, 1), masks)


@jax.jit
def threshold_iou(maps: jax.Array, masks: jax.Array, thresholds: jax.Array) -> jax.Array:
  """Overlap of the object with what the map marks at each threshold: intersection over union.

  The threshold is one for a whole set of images: take the mean over the images first and then the
  best of the thresholds, not the best for each image.

  Args:
    maps: [N, h, w].
    masks: [N, H, W] bool.
    thresholds: [T] in 0..1, shares of each map's maximum; pixels of at least so much are marked.

  Returns:
    [N, T] float32 in 0..1; 0 for an empty map.

  Raises:
    UserError: shapes that do not fit.
  """
  shares, empty = _shares(maps, masks)

  def iou(threshold):
    marked = (shares >= threshold - _TIE) & ~empty
    either = (marked | masks).sum((1, 2))
    return _scored((marked & masks).sum((1, 2)) / jnp.maximum(either, 1), masks)

  # One after the other: memory is that of one threshold.
  return lax.map(iou, jnp.asarray(thresholds, jnp.float32)).T


def _shares(maps: jax.Array, masks: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Maps as shares of their maxima, at the masks' size, zeros for empty ones; and which are empty.

  The latter is [N, 1, 1] bool.
  """
  if masks.ndim != 3 or masks.dtype != bool or len(masks) != len(maps):
    raise UserError(
      f'masks of shape {masks.shape} and type {masks.dtype} do not fit maps of shape {maps.shape};'
      ' give one mask [H, W] of bool for each map'
    )
  large = upscale(maps, *masks.shape[1:])
  # Of the large map, whose maximum may lie below that of the small one, and below 0.
  peaks = large.max((1, 2), keepdims=True)
  empty = points_nowhere(large)[:, None, None]
  return jnp.where(empty, 0, large / jnp.where(empty, 1, peaks)), empty


def _scored(scores: jax.Array, masks: jax.Array) -> jax.Array:
  return jnp.where(masks.any((1, 2)), scores, jnp.nan)


def _grown(masks: jax.Array, radius: int) -> jax.Array:
  """Masks with all pixels at most `radius` pixels away."""
  if not radius:
    return masks
  y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
  disc = jnp.asarray(y**2 + x**2 <= radius**2, jnp.float32)[None, None]
  near = lax.conv_general_dilated(masks[:, None].astype(jnp.float32), disc, (1, 1), 'SAME')
  return near[:, 0] > 0.5
