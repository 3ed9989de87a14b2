"""Faithfulness of maps: the label's probability as pixels go in the order of the map.

Insertion and deletion: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of
Black-box Models" (BMVC 2018, https://arxiv.org/abs/1806.07421).
ROAD, remove and debias: Rong et al., "A Consistent and Efficient Evaluation Strategy for
Attribution Methods" (ICML 2022, https://arxiv.org/abs/2202.00449). The single score of both orders,
(least - most relevant first) / 2, is that of `ROADCombined` in
https://github.com/jacobgil/pytorch-grad-cam.

Departures from the papers: pixels of equal relevance go in random order, so that a flat part of a
map is not taken from top to bottom. Curves have few steps, not one for each row of pixels.

Random numbers (the order of equal values, ROAD's noise) are drawn for each image from the key and
the image's own pixels, so that an image has the same scores in any batch.

Scores depend on the network: they compare maps of one network, and mean nothing without those of
random maps (`controls.random_maps`). All steps are computed one after the other, in the memory of
one forward pass. Maps are [N, h, w] of any resolution up to that of the images.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.errors import UserError, check_counts, check_range, shown
from attn_flax.explain import chance, taps
from attn_flax.explain.imputation import impute
from attn_flax.explain.loops import stack
from attn_flax.explain.maps import upscale
from attn_flax.layers.types import Model, Variables

_MOST_STEPS = 2**16
# In pixels: a narrower blur changes nothing, a wider one leaves only the mean of the image.
_LEAST_SIGMA, _MOST_SIGMA = 1e-3, 1e6
_MOST_NOISE = 1000.0


def insertion_deletion(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  maps: jax.Array,
  *,
  key: jax.Array | None = None,
  steps: int = 10,
  sigma: float = 5.0,
  positions: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Areas under the curves of the label's probability over the share of pixels that are changed.

  Inserted pixels replace those of a blurred copy of the image, deleted pixels become 0, the mean
  color of normalized images; the most relevant pixels go first.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    labels: [N], the classes that are explained.
    maps: [N, h, w], the larger the more relevant.
    key: random key for the order of equal values, the same for all maps that are compared; None: a
      fixed one.
    steps: number of equal steps from no pixel to all.
    sigma: standard deviation of the blur in pixels, cut off at twice that (RISE: 5, cut off at 5).
    positions: [N] int, numbers that identify the images, each with its own random order; None:
      numbers made from their pixels.

  Returns:
    `insertion` [N] in 0..1, higher is better; `deletion` [N], lower is better; their curves
    `insertion_curve` and `deletion_curve` [N, steps + 1].

  Raises:
    UserError: for labels outside the network's classes, maps or positions that do not fit the
      images, no steps, or a blur that is not positive.
  """
  labels, maps = _checked(model, variables, images, labels, maps)
  check_counts(_MOST_STEPS, steps=steps)
  check_range('sigma', sigma, _LEAST_SIGMA, _MOST_SIGMA)
  images = jnp.asarray(images, jnp.float32)
  keys = _keys(key, positions, images)
  pixels = images.shape[1] * images.shape[2]
  counts = jnp.asarray([round(step * pixels / steps) for step in range(steps + 1)])
  places = _ranks(keys, maps, images.shape[1:3])
  moved = functools.partial(_inserted_and_deleted, model)
  scores = stack(moved, counts, variables, images, labels, places, _blur(images, sigma))
  insertion, deletion = (curve.T for curve in scores)
  return {
    'insertion': jnp.trapezoid(insertion, counts / pixels),
    'deletion': jnp.trapezoid(deletion, counts / pixels),
    'insertion_curve': insertion,
    'deletion_curve': deletion,
  }


def road(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  maps: jax.Array,
  *,
  key: jax.Array | None = None,
  shares: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
  noise: float = 0.1,
  positions: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """The label's probability when pixels are removed and filled in from what remains.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    labels: [N], the classes that are explained.
    maps: [N, h, w], the larger the more relevant.
    key: random key for the order of equal values and the noise, the same for all maps that are
      compared; None: a fixed one.
    shares: [T] shares of the pixels, between 0 and 1, that are removed.
    noise: standard deviation of the noise in the filled pixels, in units of the normalized images
      (0.1 is about 0.025 of the range of pixels; the official code has 0.01 of it).
    positions: [N] int, numbers that identify the images, each with its own random order and noise;
      None: numbers made from their pixels.

  Returns:
    `morf` and `lerf` [N, T], the probability with the most and the least relevant pixels removed;
    `road` [N] in -0.5..0.5, the mean of (lerf - morf) / 2 over the shares: higher is better, 0 is
    chance.

  Raises:
    UserError: for labels outside the network's classes, maps or positions that do not fit the
      images, or shares that leave nothing to remove or to keep.
  """
  labels, maps = _checked(model, variables, images, labels, maps)
  check_range('noise', noise, 0, _MOST_NOISE)
  if not isinstance(shares, Sequence | np.ndarray) or isinstance(shares, str | bytes):
    raise UserError(
      f'shares={shown(shares)} is impossible; give a tuple such as (0.2, 0.4, 0.6, 0.8)'
    )
  for i, share in enumerate(shares):
    check_range(f'shares[{i}]', share, above=0, below=1)
  images = jnp.asarray(images, jnp.float32)
  pixels = images.shape[1] * images.shape[2]
  counts = tuple(round(share * pixels) for share in shares)
  if not counts or not all(0 < count < pixels for count in counts):
    raise UserError(
      f'shares={tuple(shares)} is impossible for images of {pixels} pixels; give shares that keep '
      'some of these and remove some, such as (0.2, 0.4, 0.6, 0.8)'
    )
  order_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(_keys(key, positions, images))
  places = _ranks(order_keys, maps, images.shape[1:3])
  # The same noise for all maps, orders and shares, so that their differences vary less.
  added = noise * _normal(noise_keys, images.shape[1:])
  removed = functools.partial(_removed, model)
  scores = stack(removed, jnp.asarray(counts), variables, images, labels, places, added)
  morf, lerf = (curve.T for curve in scores)
  return {'morf': morf, 'lerf': lerf, 'road': (lerf - morf).mean(1) / 2}


def faithfulness(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  maps: jax.Array,
  *,
  steps: int = 10,
  positions: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """`insertion`, `deletion` and `road`, [N] each, with the defaults of the two functions above.

  The arguments are those of `insertion_deletion`, the errors those of both.
  """
  network = model, variables, images, labels, maps
  scores = insertion_deletion(*network, steps=steps, positions=positions)
  scores |= road(*network, positions=positions)
  return {name: scores[name] for name in ('insertion', 'deletion', 'road')}


@functools.partial(jax.jit, static_argnames='model')
def _inserted_and_deleted(
  model: Model,
  count: jax.Array,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  places: jax.Array,
  blurred: jax.Array,
) -> list[jax.Array]:
  """Probabilities with the `count` most relevant pixels inserted, and with these deleted."""
  first = (places < count)[..., None]
  inserted = jnp.where(first, images, blurred)
  deleted = jnp.where(first, 0, images)
  return [taps.probability(model, variables, x, labels) for x in (inserted, deleted)]


@functools.partial(jax.jit, static_argnames='model')
def _removed(
  model: Model,
  count: jax.Array,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  places: jax.Array,
  added: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Probabilities without the `count` most relevant pixels, and without the least relevant."""

  def without(removed: jax.Array) -> jax.Array:
    filled = impute(images, removed) + jnp.where(removed[..., None], added, 0)
    return taps.probability(model, variables, filled, labels)

  return without(places < count), without(places >= places[0].size - count)


def _checked(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  maps: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The labels and the maps as arrays that fit the images."""
  labels = taps.check(model, variables, images, labels)
  maps = taps.as_floats('maps', maps)
  if maps.ndim != 3:
    raise UserError(f'maps of shape {maps.shape} are impossible; give [N, h, w], one per image')
  if len(maps) != len(images):
    raise UserError(f'{len(maps)} maps do not fit {len(images)} images; give one for each')
  return labels, maps


def _keys(key: jax.Array | None, positions: jax.Array | None, images: jax.Array) -> jax.Array:
  """A key for each image, made from a fixed key where the caller gives none."""
  return chance.image_keys(jax.random.key(0) if key is None else key, positions, images)


_normal = jax.jit(chance.normal, static_argnames='shape')


@functools.partial(jax.jit, static_argnames='size')
def _ranks(keys: jax.Array, maps: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Each pixel's rank by falling relevance, with equal ones in random order: int32 [N, H, W]."""
  maps = upscale(maps, *size)
  flat = maps.reshape(len(maps), -1)
  bits = jax.vmap(lambda key: jax.random.bits(key, flat.shape[1:]))(keys)
  order = jnp.lexsort((bits, -flat))
  return jnp.argsort(order).reshape(maps.shape).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames='sigma')
def _blur(images: jax.Array, sigma: float) -> jax.Array:
  """Blurs images [N, H, W, C] with a Gaussian; at the border over the pixels that exist."""

  def weights(size: int) -> jax.Array:
    distance = jnp.arange(size)[:, None] - jnp.arange(size)
    kernel = jnp.exp(-((distance / sigma) ** 2) / 2) * (abs(distance) <= 2 * sigma)
    return kernel / kernel.sum(1, keepdims=True)

  rows, columns = map(weights, images.shape[1:3])
  return jnp.einsum('yi,xj,nijc->nyxc', rows, columns, images)
