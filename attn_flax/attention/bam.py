"""Bottleneck attention module.

Park et al., "BAM: Bottleneck Attention Module" (BMVC 2018, https://arxiv.org/abs/1807.06514).
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax

from attn_flax import layers
from attn_flax.attention.compose import compose, hidden_channels
from attn_flax.attention.se import ChannelMLP
from attn_flax.errors import check_choice, check_counts, check_flags
from attn_flax.layers.types import Dtype

_MOST_DILATION = 1000
_MOST_DEPTH = 32


class SpatialDilated(nn.Module):
  """Spatial gate: a bottleneck of dilated 3x3 convolutions.

  Attributes:
    ratio: channels per hidden channel.
    dilation: dilation of the 3x3 convolutions.
    depth: number of dilated convolutions.
    end_norm: whether the logits pass a batch norm.
    dtype: compute dtype.
  """

  ratio: int = 16
  dilation: int = 4
  depth: int = 2
  end_norm: bool = False
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_counts(ratio=self.ratio)
    check_counts(_MOST_DILATION, dilation=self.dilation)
    check_counts(_MOST_DEPTH, depth=self.depth)
    check_flags(end_norm=self.end_norm)
    layers.check_dtype('dtype', self.dtype)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> logits [N, H, W, 1]."""
    hidden = hidden_channels(x.shape[-1], self.ratio)

    def conv(features: int, kernel: int, dilation: int, name: str) -> nn.Module:
      return layers.conv(
        features, kernel, dilation=dilation, bias=True, dtype=self.dtype, name=name
      )

    y = conv(hidden, 1, 1, 'reduce')(x)
    y = nn.relu(layers.BatchNorm(train, dtype=self.dtype, name='reduce_norm')(y))
    for i in range(1, self.depth + 1):
      y = conv(hidden, 3, self.dilation, f'conv{i}')(y)
      y = nn.relu(layers.BatchNorm(train, dtype=self.dtype, name=f'norm{i}')(y))
    y = conv(1, 1, 1, 'expand')(y)
    if self.end_norm:
      y = layers.BatchNorm(train, dtype=self.dtype, name='end_norm')(y)
    return y


class BAM(nn.Module):
  """BAM, between the stages: `x + x * sigmoid(channel(x) * spatial(x))`.

  Departures from the paper:
    The paper adds the two branches (`combine='sum'`); the released code and its weights multiply
    them (`combine='product'`, the default). The paper ends each branch with a batch norm
    (`end_norm=True`), which the released code leaves out; the paper's parameter counts fit norms
    inside and at the end of the branches. The released code pools only square feature maps
    correctly; here they may have any shape.

  Attributes:
    ratio: channels per hidden unit of both branches.
    dilation: dilation of the spatial branch.
    depth: number of dilated convolutions.
    combine: 'product' (released code) or 'sum' (paper).
    end_norm: whether each branch ends with a batch norm, as in the paper.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'stage'
  default_stages: ClassVar[slice] = slice(None, -1)

  ratio: int = 16
  dilation: int = 4
  depth: int = 2
  combine: str = 'product'
  end_norm: bool = False
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_choice('combine', self.combine, ('product', 'sum'))
    self._channel(parent=None)
    self._spatial(parent=None)
    super().__post_init__()

  def _channel(self, **place: Any) -> ChannelMLP:
    return ChannelMLP(self.ratio, norm=True, end_norm=self.end_norm, dtype=self.dtype, **place)

  def _spatial(self, **place: Any) -> SpatialDilated:
    return SpatialDilated(self.ratio, self.dilation, self.depth, self.end_norm, self.dtype, **place)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    channel, spatial = self._channel(name='channel'), self._spatial(name='spatial')
    order = f'parallel_{self.combine}'
    return compose(self, x, channel, spatial, order=order, residual=True, train=train)
