"""Vision transformer: attention between image patches; only the patch embedding is a convolution.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale"
(ICLR 2021, https://arxiv.org/abs/2010.11929). Released code:
https://github.com/google-research/vision_transformer.
"""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.errors import UserError, check_choice, check_counts, check_flags, check_range
from attn_flax.layers.marks import ATTENTION_SCOPE
from attn_flax.layers.types import Dtype
from attn_flax.models.network import (
  MOST_BLOCKS,
  Output,
  check_classes,
  check_images,
  dtype_name,
)
from attn_flax.models.placement import Placement

# Flax's fast variance, E[x^2] - E[x]^2, loses all its digits where the mean is large.
_norm = functools.partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)
_xavier = nn.initializers.xavier_uniform()
# Each of the three square kernels side by side as Xavier initializes it.
_qkv_init = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')
_mlp_bias_init = nn.initializers.normal(1e-6)
_position_init = nn.initializers.normal(0.02)


class SelfAttention(nn.Module):
  """Multi-head attention of every token to every token: `softmax(q . k / sqrt(d)) v`, projected.

  Attributes:
    heads: attention heads, a divisor of the tokens' width.
    dtype: compute dtype; the softmax is float32.
  """

  heads: int
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, queries: jax.Array | None = None) -> jax.Array:
    """[N, T, C] -> [N, T, C].

    Args:
      x: the tokens.
      queries: [Q]; where given, the result is instead the weights [N, heads, Q, T] of these tokens.
    """
    width = x.shape[-1]
    qkv = nn.Dense(3 * width, kernel_init=_qkv_init, dtype=self.dtype, name='qkv')(x)
    q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
    if queries is not None:
      q = q[:, queries]
    with jax.named_scope(ATTENTION_SCOPE):
      q = q * q.shape[-1] ** -0.5
      scores = jnp.einsum('nqhd,nkhd->nhqk', q, k, preferred_element_type=jnp.float32)
    weights = nn.softmax(scores, axis=-1)
    if queries is not None:
      return weights
    with jax.named_scope(ATTENTION_SCOPE):
      y = jnp.einsum('nhqk,nkhd->nqhd', weights.astype(v.dtype), v)
    output = nn.Dense(width, kernel_init=_xavier, dtype=self.dtype, name='output')
    return output(y.reshape(x.shape))

  def weights(self, x: jax.Array, queries: jax.Array) -> jax.Array:
    """Attention weights [N, heads, Q, T] float32 of the tokens [Q]; a class token is number 0."""
    return self(x, queries=queries)


class EncoderBlock(nn.Module):
  """A pre-norm block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.

  Attributes:
    heads: attention heads.
    mlp_width: hidden units of the MLP.
    gelu: 'tanh' or 'exact', see `ViT`.
    dropout: share of the activations dropped after all dense layers but that of q, k and v.
    dtype: compute dtype.
  """

  heads: int
  mlp_width: int
  gelu: str = 'tanh'
  dropout: float = 0.0
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, T, C] -> [N, T, C]."""
    drop = functools.partial(nn.Dropout, self.dropout, deterministic=not train)
    dense = functools.partial(
      nn.Dense, kernel_init=_xavier, bias_init=_mlp_bias_init, dtype=self.dtype
    )
    y = _norm(dtype=self.dtype, name='norm1')(x)
    y = SelfAttention(self.heads, self.dtype, name='attention')(y)
    x = x + drop(name='dropout1')(y)
    y = _norm(dtype=self.dtype, name='norm2')(x)
    y = nn.gelu(dense(self.mlp_width, name='mlp1')(y), approximate=self.gelu == 'tanh')
    y = dense(x.shape[-1], name='mlp2')(drop(name='dropout2')(y))
    return x + drop(name='dropout3')(y)


class ViT(nn.Module):
  """A vision transformer over images [N, H, W, 3]; without batch norms, it has only `params`.

  It takes no attention modules, because it is made of attention. It has one stage. The feature map
  recorded as `stage1` holds the patches' tokens where they last act on the logits: with
  `pool='mean'` the output of the last block, with `pool='token'` its input, because of its output
  only the class token is used.

  Departures from the paper:
    The position embedding fits one size of images; it is not interpolated to others.

  Attributes:
    patch: side of a patch in pixels.
    width: width of a token.
    depth: number of blocks.
    heads: attention heads, a divisor of the width.
    mlp_width: hidden units of the blocks' MLPs.
    num_classes: number of logits; None: no head, and the network returns `stage1`. With
      `pool='token'` it then ends before the last block; with 'mean' all blocks act on `stage1`.
    pool: what the logits are made of: 'token', a class token joined to the patches; or 'mean' over
      the patches, without such a token, as in the released code's `gap` networks.
    gelu: 'tanh', the approximation that the released code computes; or 'exact', as PyTorch's ports.
    dropout: share of the activations dropped in training, which then needs
      `rngs={'dropout': key}`: after the position embedding and every dense layer but those of
      queries, keys and values. The released Ti, S and B take 0, the paper's training on ImageNet
      alone 0.1.
    zero_init_head: whether the logits start at 0, as in the released code. Then only the head has a
      gradient at the first step, and explanations from gradients are 0 before training, so the
      default is False: the head starts as in this library's other networks.
    dtype: compute dtype, 'float32' or 'bfloat16'; parameters and logits are float32.
  """

  places: ClassVar[tuple[str, ...]] = ()
  conv_stages: ClassVar[slice | None] = None
  groups: ClassVar[int] = 1
  attention: ClassVar[tuple[Placement, ...]] = ()
  frozen: ClassVar[tuple[int, ...]] = ()

  patch: int
  width: int
  depth: int
  heads: int
  mlp_width: int
  num_classes: int | None = 1000
  pool: str = 'token'
  gelu: str = 'tanh'
  dropout: float = 0.0
  zero_init_head: bool = False
  dtype: str = 'float32'

  @property
  def num_stages(self) -> int:
    """Number of stages."""
    return 1

  @property
  def depths(self) -> tuple[int, ...]:
    """Blocks of each stage."""
    return (self.depth,)

  @property
  def stride(self) -> int:
    """Input pixels per pixel of the feature map, along a side."""
    return self.patch

  def check(self) -> None:
    """Raises `UserError` for fields that are impossible or do not go together."""
    check_choice('pool', self.pool, ('token', 'mean'))
    check_choice('gelu', self.gelu, ('tanh', 'exact'))
    dtype_name(self.dtype)
    check_counts(patch=self.patch, width=self.width, heads=self.heads, mlp_width=self.mlp_width)
    check_counts(MOST_BLOCKS, depth=self.depth)
    check_classes(self.num_classes)
    check_flags(zero_init_head=self.zero_init_head)
    check_range('dropout', self.dropout, 0, below=1)
    if self.width % self.heads:
      raise UserError(
        f'tokens of width={self.width} cannot be split into heads={self.heads}; take a number of '
        'heads that divides the width'
      )

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> Output:
    """Normalized images [N, H, W, 3] to logits [N, num_classes] float32, or to a feature map.

    Returns:
      The logits; without a head `{'stage1': [N, h, w, C]}`.

    Raises:
      UserError: for images that do not divide into patches, images of another size than the
        parameters were made for, or impossible fields.
    """
    self.check()
    check_images(x, self.patch, 'use larger images')
    self._check_patches(x)
    dtype = jnp.dtype(self.dtype)
    size = (self.patch, self.patch)
    x = nn.Conv(self.width, size, size, 'VALID', dtype=dtype, name='patches')(x.astype(dtype))
    n, *grid, _ = x.shape
    x = x.reshape(n, -1, self.width)
    if self.pool == 'token':
      token = self.param('class_token', nn.initializers.zeros, (1, 1, self.width))
      x = jnp.concatenate([jnp.broadcast_to(token, (n, 1, self.width)).astype(dtype), x], axis=1)
    x = x + self._position(x.shape[1]).astype(dtype)
    x = nn.Dropout(self.dropout, deterministic=not train, name='dropout')(x)

    for i in range(self.depth):
      if self.pool == 'token' and i == self.depth - 1:
        patches = self._tap(x[:, 1:], grid)
        if self.num_classes is None:
          break  # The last block serves only the class token.
        x = jnp.concatenate([x[:, :1], patches.reshape(n, -1, self.width)], axis=1)
      x = EncoderBlock(
        self.heads, self.mlp_width, self.gelu, self.dropout, dtype, name=f'block{i + 1}'
      )(x, train=train)
    if self.pool == 'mean':
      patches = self._tap(x, grid)
    if self.num_classes is None:
      return {'stage1': patches}
    x = x[:, :1] if self.pool == 'token' else patches.reshape(n, -1, self.width)

    x = _norm(name='norm')(x.astype(jnp.float32)).mean(1)
    init = nn.initializers.zeros if self.zero_init_head else layers.torch_default
    return nn.Dense(self.num_classes, kernel_init=init, name='head')(x)

  def _tap(self, x: jax.Array, grid: list[int]) -> jax.Array:
    """Records the patches' tokens [N, H * W, C] as a feature map [N, H, W, C], and returns it."""
    return layers.tap(self, 'stage1', x.reshape(len(x), *grid, -1))

  def _position(self, tokens: int) -> jax.Array:
    """The learned vector of each position, [1, T, C]."""
    if self.has_variable('params', 'position'):
      made_for: int = self.get_variable('params', 'position').shape[1]
      if made_for != tokens:
        raise UserError(
          f'these images make {tokens} tokens, but the position embedding was made for {made_for}; '
          'use images of the size that the parameters were made with'
        )
    return self.param('position', _position_init, (1, tokens, self.width))

  def _check_patches(self, x: jax.Array) -> None:
    height, width = x.shape[1:3]
    if height % self.patch or width % self.patch:
      raise UserError(
        f'images of {height}x{width} pixels do not divide into patches of side {self.patch}; use '
        f'sides that are multiples of {self.patch}, or another patch'
      )
