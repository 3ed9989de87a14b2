"""Attention-augmented convolution.

Bello et al., "Attention Augmented Convolutional Networks" (ICCV 2019,
https://arxiv.org/abs/1904.09925).
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.attention import products
from attn_flax.errors import UserError, check_choice, check_counts, check_flags, check_range
from attn_flax.layers.types import Dtype

IMPLEMENTATIONS = ('blocks', 'direct', 'fused')
MOST_KERNEL = 63
MOST_STRIDE = 64


def augmented_dims(
  features: int, heads: int, kappa: float, upsilon: float, min_key_dim: int
) -> tuple[int, int]:
  """Key and value dimensions of all heads together: (dk, dv).

  dk is `kappa * features`, but at least `min_key_dim` per head; dv is `upsilon * features`. Both
  are rounded down to multiples of `heads`, as the paper's parameter counts require for dv.

  Raises:
    UserError: for an `upsilon` that leaves fewer value dimensions than heads.
  """
  # Rounded before it is cut off: 0.29 * 100 is 28.999999999999996.
  keys, values = (int(round(share * features, 6)) for share in (kappa, upsilon))
  key = max(keys // heads, min_key_dim) * heads
  value = values // heads * heads
  if upsilon and not value:
    fix = f'raise upsilon, or lower heads to {values}' if values else 'raise upsilon'
    raise UserError(
      f'aa upsilon={upsilon} of features={features} leaves fewer value dimensions than '
      f'heads={heads}; {fix}'
    )
  return key, value


class AugmentedConv(nn.Module):
  """Convolution and self-attention side by side: `[conv(x; F - dv), attention(x; dk, dv)]`.

  Departures from the paper:
    The paper's listing draws the relative vectors with *mean* dk^-0.5 and deviation 1, by a
    misplaced argument; here they have mean 0 and deviation dk^-0.5 (dk per head). The listing has
    no strides; here the convolution that makes queries, keys and values takes them. The paper
    stores all scores; here they are computed in blocks of rows (`implementation`).

  Attributes:
    features: output channels F.
    stride: step in both directions.
    kernel: height and width of the convolution.
    heads: attention heads.
    kappa: share of key dimensions, dk / F.
    upsilon: share of value dimensions, dv / F; 0 leaves a plain convolution, 1 only attention.
    min_key_dim: the smallest number of key dimensions per head.
    relative: whether the scores depend on relative positions.
    pool: whether attention acts on the feature map average-pooled 3x3 with stride 2, and its result
      is scaled up bilinearly, as in the paper on the largest feature maps; in a network also one
      value per stage.
    implementation: 'blocks', 'direct' or 'fused', see `products.attend`.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'conv'
  default_stages: ClassVar[slice] = slice(1, None)
  per_stage: ClassVar[tuple[str, ...]] = ('pool',)

  features: int
  stride: int = 1
  kernel: int = 3
  heads: int = 8
  kappa: float = 0.2
  upsilon: float = 0.1
  min_key_dim: int = 20
  relative: bool = True
  pool: bool = False
  implementation: str = 'blocks'
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_counts(features=self.features, heads=self.heads, min_key_dim=self.min_key_dim)
    check_counts(MOST_STRIDE, stride=self.stride)
    check_flags(relative=self.relative, pool=self.pool)
    check_range('kernel', self.kernel, 1, MOST_KERNEL, odd=True)
    check_range('kappa', self.kappa, 0, 1)
    check_range('upsilon', self.upsilon, 0, 1)
    check_choice('implementation', self.implementation, IMPLEMENTATIONS)
    layers.check_dtype('dtype', self.dtype)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, queries: jax.Array | None = None) -> jax.Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), features].

    Args:
      x: the feature map.
      queries: [Q]; where given, the result is instead the weights [N, heads, Q, keys] of these
        queries, counted row by row over the feature map that attention acts on.

    Raises:
      UserError: for dimensions that do not fit the heads, or a feature map of another size than the
        relative vectors were made for.
    """
    layers.check_map('augmented convolution', x)
    key_dim, value_dim = augmented_dims(
      self.features, self.heads, self.kappa, self.upsilon, self.min_key_dim
    )
    if not value_dim:
      return layers.conv(self.features, self.kernel, self.stride, dtype=self.dtype, name='conv')(x)
    parts = []
    if self.features > value_dim and queries is None:
      width = self.features - value_dim
      parts.append(layers.conv(width, self.kernel, self.stride, dtype=self.dtype, name='conv')(x))

    small = x
    if self.pool:
      small = nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False)
    qkv = layers.conv(2 * key_dim + value_dim, 1, self.stride, dtype=self.dtype, name='qkv')(small)
    n, height, width = qkv.shape[:3]
    q, k, v = (
      part.reshape(n, height * width, self.heads, -1).transpose(0, 2, 1, 3)
      for part in jnp.split(qkv, (key_dim, 2 * key_dim), axis=-1)
    )
    head_dim = key_dim // self.heads
    # Scaled here, so that content and relative scores both are.
    q = q * head_dim**-0.5
    tables = None
    if self.relative:
      self._check_size(height, width)
      normal = nn.initializers.normal(head_dim**-0.5)
      tables = products.Relative(
        self.param('relative_height', normal, (2 * height - 1, head_dim)),
        self.param('relative_width', normal, (2 * width - 1, head_dim)),
      )
    if queries is not None:
      return products.weights(q, k, queries, (height, width), tables)

    y = products.attend(
      q, k, v, (height, width), relative=tables, implementation=self.implementation
    )
    y = y.transpose(0, 2, 1, 3).reshape(n, height, width, value_dim)
    y = layers.conv(value_dim, 1, dtype=self.dtype, name='output')(y)
    if self.pool:
      full = [-(-size // self.stride) for size in x.shape[1:3]]
      y = layers.interpolate(layers.interpolate(y, 1, full[0]), 2, full[1])
    return jnp.concatenate([*parts, y], axis=-1)

  def _check_size(self, height: int, width: int) -> None:
    if self.is_initializing():
      return
    for name, size in (('relative_height', height), ('relative_width', width)):
      made_for = (self.get_variable('params', name).shape[0] + 1) // 2
      if made_for != size:
        raise UserError(
          f'the {name} vectors of an augmented convolution were made for size {made_for}, but the '
          f'feature map has size {size}; use images of the same size as before, or relative=False'
        )

  def weights(self, x: jax.Array, queries: jax.Array) -> jax.Array | None:
    """Attention weights [N, heads, Q, keys] float32 of the queries [Q]; None where upsilon is 0."""
    return self(x, queries=queries) if self.upsilon else None
