"""Occlusion: how far the label's probability drops when a patch covers part of the image.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014,
https://arxiv.org/abs/1311.2901), section 4.2 and figure 7.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.errors import UserError, check_range
from attn_flax.explain import taps
from attn_flax.explain.loops import accumulate
from attn_flax.layers.types import Model, Variables


def occlusion(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  *,
  patch: int = 8,
  stride: int = 4,
  fill: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
  """How far the label's probability drops, averaged over the patches that cover a pixel.

  As in the paper's figure, it is the probability and not the logit. The patches lie on a grid, the
  last row and column of which end at the image's border, so that each pixel is covered. Patches are
  taken one after the other, in the memory of one forward pass.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    labels: [N], the classes that are explained.
    patch: side of the square patch in pixels.
    stride: pixels between patches, at most `patch`.
    fill: the patch's value, a number or a color [3]; 0 is the data's mean color, like the paper's
      gray square.

  Returns:
    [N, H, W] float32 in -1..1, not normalized; negative where covering raises the probability.

  Raises:
    UserError: for labels outside the network's classes, a patch or a fill that does not fit the
      images, or a stride that leaves pixels uncovered.
  """
  labels = taps.check(model, variables, images, labels)
  height, width = images.shape[1:3]
  check_range('patch', patch, 1, min(height, width), whole=True)
  # A longer stride would leave pixels uncovered.
  check_range(f'patch={patch} with stride', stride, 1, patch, whole=True)
  fill = taps.as_color('fill', fill)
  if not taps.fits(fill, images):
    raise UserError(
      f'fill of shape {np.shape(fill)} does not fit images of shape {images.shape}; give a number '
      'or a color [3]'
    )
  images, fill = (jnp.asarray(array, jnp.float32) for array in (images, fill))
  sizes = images.shape[1:3]
  corners = itertools.product(*(_starts(size, patch, stride) for size in sizes))
  whole = _whole(model, variables, images, labels)
  total, count = accumulate(
    functools.partial(_add_drop, model, patch),
    (jnp.zeros(images.shape[:3]), jnp.zeros(sizes, jnp.int32)),
    jnp.array(list(corners)),
    *(variables, images, labels, fill, whole),
  )
  return total / count


_whole = jax.jit(taps.probability, static_argnames='model')


@functools.partial(jax.jit, static_argnames=('model', 'patch'))
def _add_drop(
  model: Model,
  patch: int,
  carry: tuple[jax.Array, jax.Array],
  corner: jax.Array,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  fill: jax.Array,
  whole: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  total, count = carry
  rows, columns = (
    jnp.arange(size) - start for size, start in zip(images.shape[1:3], corner, strict=True)
  )
  inside = ((rows >= 0) & (rows < patch))[:, None] & ((columns >= 0) & (columns < patch))
  covered = jnp.where(inside[..., None], fill, images)
  drop = whole - taps.probability(model, variables, covered, labels)
  return total + drop[:, None, None] * inside, count + inside


def _starts(size: int, patch: int, stride: int) -> list[int]:
  """First pixels of the patches along an axis."""
  last = size - patch
  return [*range(0, last, stride), last]
