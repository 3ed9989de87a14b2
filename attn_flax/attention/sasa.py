"""Stand-alone self-attention in local windows, in place of a convolution.

Ramachandran et al., "Stand-Alone Self-Attention in Vision Models" (NeurIPS 2019,
https://arxiv.org/abs/1906.05909).
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.errors import UserError, check_counts, check_range
from attn_flax.layers.marks import ATTENTION_SCOPE
from attn_flax.layers.types import Dtype


class StandAlone(nn.Module):
  """Each pixel attends to the k x k pixels around it: `sum softmax(q . k + q . r) v`.

  r concatenates a vector of the row offset and one of the column offset, each half as long as q;
  scores are not scaled by 1 / sqrt(d). A stride of 2 is a 2x2 average pool after the attention.

  Departures from the paper:
    The paper writes one projection per head and group of channels, but its parameter counts need
    dense projections, which are used here. Neighbors outside the feature map are left out of the
    softmax; the paper does not say what happens to them.

  Attributes:
    features: output channels, a multiple of `2 * heads`.
    stride: 1 or 2.
    heads: attention heads.
    kernel_size: side of the window, odd.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'conv'
  default_stages: ClassVar[slice] = slice(None)

  features: int
  stride: int = 1
  heads: int = 8
  kernel_size: int = 7
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_counts(features=self.features, heads=self.heads)
    layers.check_dtype('dtype', self.dtype)
    check_range('kernel_size', self.kernel_size, 1, 31, odd=True)  # The window is unrolled.
    check_range('stride', self.stride, 1, 2, whole=True)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, queries: jax.Array | None = None) -> jax.Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), features].

    Args:
      x: the feature map.
      queries: [Q]; where given, the result is instead the weights [N, heads, Q, H * W] of these
        queries, counted row by row over x; outside the window they are 0.

    Raises:
      UserError: for features that cannot be split over the heads, or for an input that is not a
        feature map.
    """
    layers.check_map('stand-alone attention', x)
    if self.features % (2 * self.heads):
      raise UserError(
        f'sasa heads={self.heads} cannot split features={self.features} into parts of even '
        f'length; choose heads so that {self.features} is a multiple of 2 * heads'
      )
    n, height, width, _ = x.shape
    size, reach = self.kernel_size, self.kernel_size // 2
    head_dim = self.features // self.heads
    qkv = layers.conv(3 * self.features, 1, dtype=self.dtype, name='qkv')(x)
    q, k, v = (
      part.reshape(n, height, width, self.heads, head_dim) for part in jnp.split(qkv, 3, axis=-1)
    )
    normal = nn.initializers.normal(head_dim**-0.5)
    rows = self.param('relative_rows', normal, (size, head_dim // 2)).astype(q.dtype)
    columns = self.param('relative_columns', normal, (size, head_dim // 2)).astype(q.dtype)

    # One window row after the other: [N, H, W, size, heads, d] of neighbors at a time.
    margin = ((0, 0), (reach, reach), (reach, reach), (0, 0), (0, 0))
    k, v = jnp.pad(k, margin), jnp.pad(v, margin)

    def neighbors(y: jax.Array, a: int) -> jax.Array:
      row = y[:, a : a + height]
      return jnp.stack([row[:, :, b : b + width] for b in range(size)], axis=3)

    by_row, by_column = jnp.split(q, 2, axis=-1)
    with jax.named_scope(ATTENTION_SCOPE):
      content = jnp.stack(
        [
          jnp.einsum('nyxhd,nyxbhd->nyxhb', q, neighbors(k, a), preferred_element_type=jnp.float32)
          for a in range(size)
        ],
        axis=4,
      )
      by_row = jnp.einsum('nyxhd,ad->nyxha', by_row, rows)
      by_column = jnp.einsum('nyxhd,bd->nyxhb', by_column, columns)
    scores = content + by_row[..., :, None] + by_column[..., None, :]
    scores = jnp.where(self._inside(height, width), scores.astype(jnp.float32), -jnp.inf)
    weights = jax.nn.softmax(scores.reshape(*scores.shape[:4], -1), axis=-1)
    weights = weights.reshape(scores.shape)
    if queries is not None:
      return self._spread(weights, queries)

    weights = weights.astype(v.dtype)
    with jax.named_scope(ATTENTION_SCOPE):
      y = jnp.zeros_like(q)
      for a in range(size):
        y += jnp.einsum('nyxhb,nyxbhd->nyxhd', weights[..., a, :], neighbors(v, a))
    y = y.reshape(n, height, width, self.features)
    return layers.halve(y) if self.stride == 2 else y

  def _inside(self, height: int, width: int) -> jax.Array:
    """Which neighbors lie in the feature map: bool [H, W, 1, size, size]."""
    offsets = jnp.arange(self.kernel_size) - self.kernel_size // 2

    def inside(length: int) -> jax.Array:
      places = jnp.arange(length)[:, None] + offsets
      return (places >= 0) & (places < length)

    return inside(height)[:, None, None, :, None] & inside(width)[None, :, None, None, :]

  def _spread(self, weights: jax.Array, queries: jax.Array) -> jax.Array:
    """Window weights [N, H, W, heads, size, size] as [N, heads, Q, H * W], for some queries."""
    n, height, width, heads, size, _ = weights.shape
    i, j = queries // width, queries % width
    chosen = weights[:, i, j]  # [N, Q, heads, size, size]
    offsets = jnp.arange(size) - size // 2
    by_row = jax.nn.one_hot(i[:, None] + offsets, height)  # All zeros outside the map.
    by_column = jax.nn.one_hot(j[:, None] + offsets, width)
    full = jnp.einsum('nqhab,qay,qbx->nhqyx', chosen, by_row, by_column)
    return full.reshape(n, heads, -1, height * width)

  def weights(self, x: jax.Array, queries: jax.Array) -> jax.Array:
    """Attention weights [N, heads, Q, H * W] float32 of the queries [Q], counted row by row."""
    return self(x, queries=queries)
