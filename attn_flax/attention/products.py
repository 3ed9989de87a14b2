"""Attention between the pixels of a feature map, a few rows of queries at a time.

The matrix of all scores has heads x (HW)^2 entries. It is never stored: the scores are computed for
one block of rows after the other, and again in the backward pass, so that memory grows as (HW)^1.5
at most on square maps. Chen et al. (2016, https://arxiv.org/abs/1604.06174) describe recomputation
that saves memory.

Shapes: q [N, heads, H * W, d], k [N, heads, K, d], v [N, heads, K, dv]. With relative positions
the keys are the pixels of the same feature map, K = H * W.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from attn_flax.attention import fused
from attn_flax.layers import marks
from attn_flax.layers.marks import ATTENTION_SCOPE, RELATIVE_SCOPE

# A block has at most this many queries, but at least one row: it then fits the cache and is still
# an efficient matrix product.
_BLOCK_QUERIES = 32


class Relative(NamedTuple):
  """Learned vectors of relative positions, shared by the heads.

  For a query at (i, j) and a key at (y, x), `height[y - i + H - 1] + width[x - j + W - 1]` is added
  to the key.

  Attributes:
    height: [2 H - 1, d].
    width: [2 W - 1, d].
  """

  height: jax.Array
  width: jax.Array


def softmax(scores: jax.Array) -> jax.Array:
  """Scores [..., K] as weights that sum to 1 over the keys."""
  return jax.nn.softmax(scores, axis=-1)


def mean(scores: jax.Array) -> jax.Array:
  """Scores [..., K] divided by the number of keys."""
  return scores / scores.shape[-1]


def relu_mean(scores: jax.Array) -> jax.Array:
  """Positive parts of the scores [..., K], divided by the number of keys."""
  return mean(jax.nn.relu(scores))


def weights(
  q: jax.Array,
  k: jax.Array,
  queries: jax.Array,
  grid: tuple[int, int],
  relative: Relative | None = None,
  normalize: Callable[[jax.Array], jax.Array] = softmax,
) -> jax.Array:
  """How much some queries attend to every key.

  Args:
    q: [N, heads, H * W, d].
    k: [N, heads, K, d].
    queries: [Q] int32, the numbers of the queries, counted row by row.
    grid: (H, W).
    relative: vectors of relative positions, or None.
    normalize: turns scores into weights.

  Returns:
    [N, heads, Q, K] float32.
  """
  return _weights(q[:, :, queries], k, queries, grid, relative, normalize)


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  grid: tuple[int, int],
  *,
  relative: Relative | None = None,
  normalize: Callable[[jax.Array], jax.Array] = softmax,
  implementation: str = 'blocks',
) -> jax.Array:
  """Weighted sums of the values, for every query.

  Args:
    q: [N, heads, H * W, d].
    k: [N, heads, K, d].
    v: [N, heads, K, dv].
    grid: (H, W).
    relative: vectors of relative positions, or None.
    normalize: turns scores into weights.
    implementation: 'blocks' (bounded memory), 'direct' (stores all scores), or 'fused' (softmax
      only): cuDNN's kernel on GPUs in half precision, which stores no scores, and elsewhere XLA's
      attention, which stores all of them.

  Returns:
    [N, heads, H * W, dv], of the dtype of `v`.

  Raises:
    ValueError: for 'fused' with another normalization than softmax.
    UserError: for 'fused', when it is lowered for a GPU without cuDNN, see `fused`.
  """
  if implementation == 'fused':
    if normalize is not softmax:
      raise ValueError(f'fused attention is softmax only, not {normalize.__name__}')
    return _fused(q, k, v, grid, relative)
  everyone = jnp.arange(q.shape[2])
  if implementation == 'direct':
    return _sum(_weights(q, k, everyone, grid, relative, normalize), v)

  @jax.checkpoint
  def block(
    q: jax.Array, queries: jax.Array, k: jax.Array, v: jax.Array, relative: Relative | None
  ) -> jax.Array:
    return _sum(_weights(q, k, queries, grid, relative, normalize), v)

  size = _block_rows(grid) * grid[1]
  blocks = everyone.reshape(-1, size)
  if len(blocks) == 1:
    return block(q, everyone, k, v, relative)
  n, heads, pixels, d = q.shape
  rows = jnp.moveaxis(q.reshape(n, heads, -1, size, d), 2, 0)
  out = lax.map(lambda row: block(*row, k, v, relative), (rows, blocks))
  return jnp.moveaxis(out, 0, 2).reshape(n, heads, pixels, v.shape[-1])


def _block_rows(grid: tuple[int, int]) -> int:
  """Rows of a block: the most that divide the height and have `_BLOCK_QUERIES` or fewer queries."""
  height, width = grid
  fitting = [r for r in range(1, height + 1) if height % r == 0 and r * width <= _BLOCK_QUERIES]
  return max(fitting, default=1)


def _weights(
  q: jax.Array,
  k: jax.Array,
  queries: jax.Array,
  grid: tuple[int, int],
  relative: Relative | None,
  normalize: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """Weights [N, heads, Q, K] float32 of the queries q [N, heads, Q, d] with numbers `queries`."""
  with jax.named_scope(ATTENTION_SCOPE):
    scores = jnp.einsum('nhqd,nhkd->nhqk', q, k, preferred_element_type=jnp.float32)
  if relative is not None:
    by_row, by_column = _relative_scores(q, queries, grid, relative)
    scores += (by_row[..., :, None] + by_column[..., None, :]).reshape(scores.shape)
  return normalize(scores)


def _relative_scores(
  q: jax.Array, queries: jax.Array, grid: tuple[int, int], relative: Relative
) -> tuple[jax.Array, jax.Array]:
  """Scores of the keys' relative rows [N, heads, Q, H] and columns [N, heads, Q, W]."""
  height, width = grid
  i, j = queries[:, None] // width, queries[:, None] % width
  # Restored parameters may be NumPy arrays, which a traced index cannot index.
  by_height, by_width = (jnp.asarray(table) for table in relative)
  # Looked up before rounding, so that the gradients of all pairs are summed in the tables' dtype.
  rows = by_height[jnp.arange(height) - i + height - 1].astype(q.dtype)
  columns = by_width[jnp.arange(width) - j + width - 1].astype(q.dtype)
  with jax.named_scope(RELATIVE_SCOPE):
    by_row = jnp.einsum('nhqd,qyd->nhqy', q, rows, preferred_element_type=jnp.float32)
    by_column = jnp.einsum('nhqd,qxd->nhqx', q, columns, preferred_element_type=jnp.float32)
  return by_row, by_column


def _sum(w: jax.Array, v: jax.Array) -> jax.Array:
  with jax.named_scope(ATTENTION_SCOPE):
    return jnp.einsum('nhqk,nhkd->nhqd', w.astype(v.dtype), v)


def _fused(
  q: jax.Array, k: jax.Array, v: jax.Array, grid: tuple[int, int], relative: Relative | None
) -> jax.Array:
  """`fused.attention`, whose operations are counted as those of its equations."""
  n, heads, queries, d = q.shape
  pairs = n * heads * queries * k.shape[2]
  attend = marks.counted_as(
    functools.partial(_fused_with_positions, grid=grid),
    attention=pairs * (d + v.shape[-1]),
    relative=0 if relative is None else n * heads * queries * sum(grid) * d,
    exp=pairs,
  )
  return attend(q, k, v, relative)


def _fused_with_positions(
  q: jax.Array, k: jax.Array, v: jax.Array, relative: Relative | None, *, grid: tuple[int, int]
) -> jax.Array:
  """`fused.attention`, with the relative positions folded into longer queries and keys.

  The score q . k + row_scores[y] + column_scores[x] is the product of [q, row_scores,
  column_scores] with [k, one-hot y, one-hot x], so that the kernel needs no bias of
  heads x (HW)^2 entries.
  """
  if relative is not None:
    height, width = grid
    pixels = jnp.arange(height * width)
    scores = _relative_scores(q, pixels, grid, relative)
    q = jnp.concatenate([q, *(part.astype(q.dtype) for part in scores)], axis=-1)
    one_hot = [jax.nn.one_hot(pixels // width, height), jax.nn.one_hot(pixels % width, width)]
    places = jnp.concatenate(one_hot, axis=-1).astype(k.dtype)
    k = jnp.concatenate([k, jnp.broadcast_to(places, (*k.shape[:3], height + width))], axis=-1)
  return fused.attention(q, k, v)
