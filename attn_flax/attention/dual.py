"""Dual attention: between positions, and between channels.

Fu et al., "Dual Attention Network for Scene Segmentation" (CVPR 2019,
https://arxiv.org/abs/1809.02983).
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.attention import products
from attn_flax.attention.compose import hidden_channels
from attn_flax.errors import check_choice, check_counts
from attn_flax.layers.marks import ATTENTION_SCOPE
from attn_flax.layers.types import Dtype

ENERGIES = ('released', 'paper')


class PositionAttention(nn.Module):
  """Mixer: `gamma * sum over positions of softmax(q . k) v`.

  gamma starts at 0; the scores are not scaled by 1 / sqrt(d).

  Attributes:
    ratio: channels per query and key dimension.
    dtype: compute dtype.
  """

  returns: ClassVar[str] = 'map'

  ratio: int = 8
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_counts(ratio=self.ratio)
    layers.check_dtype('dtype', self.dtype)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, queries: jax.Array | None = None
  ) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C], to be added to x; with `queries` their `weights` instead."""
    del train
    n, height, width, channels = x.shape
    hidden = hidden_channels(channels, self.ratio)

    def heads(features: int, name: str) -> jax.Array:
      y = layers.conv(features, 1, bias=True, dtype=self.dtype, name=name)(x)
      return y.reshape(n, 1, height * width, features)

    q, k = heads(hidden, 'query'), heads(hidden, 'key')
    if queries is not None:
      return products.weights(q, k, queries, (height, width))
    y = products.attend(q, k, heads(channels, 'value'), (height, width))
    gamma = self.param('gamma', nn.initializers.zeros, ())
    return (gamma * y.reshape(x.shape)).astype(x.dtype)

  def weights(self, x: jax.Array, queries: jax.Array) -> jax.Array:
    """Attention weights [N, 1, Q, H * W] float32 of the queries [Q], counted row by row."""
    return self(x, queries=queries)


class ChannelAttention(nn.Module):
  """Mixer: `gamma * softmax(energy) X`, with energy = X X^T between channels; gamma starts at 0.

  Attributes:
    energy: 'released' takes softmax(max - energy), so that unlike channels count more; 'paper'
      takes softmax(energy).
    dtype: compute dtype.
  """

  returns: ClassVar[str] = 'map'

  energy: str = 'released'
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_choice('energy', self.energy, ENERGIES)
    layers.check_dtype('dtype', self.dtype)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C], to be added to x."""
    del train
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    with jax.named_scope(ATTENTION_SCOPE):
      energy = jnp.einsum('npc,npd->ncd', flat, flat, preferred_element_type=jnp.float32)
    if self.energy == 'released':
      # The softmax cancels this shift, so the maximum needs no gradient.
      energy = jax.lax.stop_gradient(energy.max(-1, keepdims=True)) - energy
    weights = jax.nn.softmax(energy, axis=-1).astype(x.dtype)
    with jax.named_scope(ATTENTION_SCOPE):
      y = jnp.einsum('ncd,npd->npc', weights, flat)
    gamma = self.param('gamma', nn.initializers.zeros, ())
    return (gamma * y.reshape(x.shape)).astype(x.dtype)


class Dual(nn.Module):
  """Position and channel attention in parallel: `x + position(x) + channel(x)`, initially x.

  Departures from the paper:
    The paper's segmentation head puts a 3x3 convolution before and after each branch, sums the
    branches and classifies each pixel three times; here the two branches act on the feature map
    itself, and x is added once. The channel branch takes `max - energy`, as the released code does,
    which reverses the sign of the paper's formula; `energy='paper'` takes the formula.

  Attributes:
    ratio: channels per query and key dimension of the position branch.
    energy: 'released' or 'paper', see `ChannelAttention`.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'stage'
  default_stages: ClassVar[slice] = slice(-1, None)

  ratio: int = 8
  energy: str = 'released'
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    self._position(parent=None)
    self._channel(parent=None)
    super().__post_init__()

  def _position(self, **place: Any) -> PositionAttention:
    return PositionAttention(self.ratio, self.dtype, **place)

  def _channel(self, **place: Any) -> ChannelAttention:
    return ChannelAttention(self.energy, self.dtype, **place)

  @property
  def starts_as_identity(self) -> bool:
    """Whether the freshly initialized module returns its input: it always does."""
    return True

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    layers.check_map('dual attention', x)
    position = self._position(name='position')(x, train=train)
    channel = self._channel(name='channel')(x, train=train)
    return x + position + channel
