"""Squeeze-and-excitation.

Hu, Shen, Sun, "Squeeze-and-Excitation Networks" (CVPR 2018, https://arxiv.org/abs/1709.01507).
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.attention.compose import compose, hidden_channels
from attn_flax.attention.pools import POOLS, check_pools
from attn_flax.errors import check_counts, check_flags
from attn_flax.layers.types import Dtype


class ChannelMLP(nn.Module):
  """Channel gate: pooled channels through a shared two-layer perceptron, summed over the pools.

  It is the gate of SE (average pool), CBAM (average and max pools) and BAM (average pool, norms).

  Attributes:
    ratio: channels per hidden unit (`C // ratio` hidden units).
    pools: names of the pools that describe a channel, from `pools.POOLS`.
    bias: whether the two layers have biases.
    norm: whether the hidden units pass a batch norm.
    end_norm: whether the logits pass a batch norm.
    divisor: the hidden width is rounded to a multiple of it; 1: it is not rounded.
    dtype: compute dtype.
  """

  ratio: int = 16
  pools: tuple[str, ...] = ('avg',)
  bias: bool = True
  norm: bool = False
  end_norm: bool = False
  divisor: int = 1
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_counts(ratio=self.ratio, divisor=self.divisor)
    check_pools('pools', self.pools)
    check_flags(bias=self.bias, norm=self.norm, end_norm=self.end_norm)
    layers.check_dtype('dtype', self.dtype)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> logits [N, 1, 1, C]."""
    channels = x.shape[-1]
    hidden = hidden_channels(channels, self.ratio, self.divisor)
    y = jnp.stack([POOLS[pool](x) for pool in self.pools], axis=1)
    y = layers.dense(hidden, bias=self.bias, dtype=self.dtype, name='reduce')(y)
    if self.norm:
      y = layers.BatchNorm(train, dtype=self.dtype, name='norm')(y)
    y = layers.dense(channels, bias=self.bias, dtype=self.dtype, name='expand')(nn.relu(y))
    y = y.sum(1)
    if self.end_norm:
      y = layers.BatchNorm(train, dtype=self.dtype, name='end_norm')(y)
    return y[:, None, None]


class SE(nn.Module):
  """Squeeze-and-excitation: `x * sigmoid(W2 relu(W1 avgpool(x)))`.

  Departures from the paper:
    None by default. The paper's formula has no biases, but its released networks have them, and so
    has this module (`bias`). Some libraries round the hidden width to multiples of 8 (`divisor=8`).

  Attributes:
    ratio: channels per hidden unit, r in the paper.
    bias: whether the two layers have biases.
    divisor: the hidden width is rounded to a multiple of it; 1: it is not rounded.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'branch'
  default_stages: ClassVar[slice] = slice(None)

  ratio: int = 16
  bias: bool = True
  divisor: int = 1
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    self._channel(parent=None)
    super().__post_init__()

  def _channel(self, **place: Any) -> ChannelMLP:
    return ChannelMLP(self.ratio, bias=self.bias, divisor=self.divisor, dtype=self.dtype, **place)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    return compose(self, x, self._channel(name='channel'), train=train)
