"""Convolutional block attention module.

Woo et al., "CBAM: Convolutional Block Attention Module" (ECCV 2018,
https://arxiv.org/abs/1807.06521).
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.attention.compose import ORDERS, compose
from attn_flax.attention.se import ChannelMLP
from attn_flax.errors import check_choice, check_flags, check_range
from attn_flax.layers.types import Dtype

_MOST_KERNEL = 63  # On a CPU the program grows with each row and column of the kernel.


class SpatialConv(nn.Module):
  """Spatial gate: one large convolution over the maximum and the mean of the channels, and a norm.

  Attributes:
    kernel_size: height and width of the convolution, odd.
    zero_init: whether the norm's scale starts at 0, so that the gate starts at 0.5 everywhere.
    dtype: compute dtype.
  """

  kernel_size: int = 7
  zero_init: bool = True
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_range('kernel_size', self.kernel_size, 1, _MOST_KERNEL, odd=True)
    check_flags(zero_init=self.zero_init)
    layers.check_dtype('dtype', self.dtype)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> logits [N, H, W, 1]."""
    y = jnp.stack([layers.largest(x, -1), x.mean(-1)], axis=-1)
    y = layers.conv(
      1,
      self.kernel_size,
      conv_general_dilated=layers.shifted_conv,
      dtype=self.dtype,
      name='conv',
    )(y)
    init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
    return layers.BatchNorm(train, momentum=0.99, scale_init=init, dtype=self.dtype, name='norm')(y)


class CBAM(nn.Module):
  """CBAM: a channel gate from average and max pools, then a spatial gate from a 7x7 convolution.

  Departures from the paper:
    As in the released code, the layers of the channel gate have biases and the 7x7 convolution is
    followed by a batch norm of momentum 0.99, whose scale starts at 0 (`zero_init_spatial`): the
    spatial gate is 0.5 everywhere at first. The paper mentions none of these. The paper's best
    order is the default (`order`).

  Attributes:
    ratio: channels per hidden unit of the channel gate.
    pools: pools of the channel gate: any of avg, max, lp and lse.
    bias: whether the layers of the channel gate have biases.
    kernel_size: height and width of the spatial gate's convolution, odd.
    order: the order of the two gates, or the gate that acts alone: one of `compose.ORDERS`.
    zero_init_spatial: whether the scale of the spatial gate's norm starts at 0.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'branch'
  default_stages: ClassVar[slice] = slice(None)

  ratio: int = 16
  pools: tuple[str, ...] = ('avg', 'max')
  bias: bool = True
  kernel_size: int = 7
  order: str = 'channel_first'
  zero_init_spatial: bool = True
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_choice('order', self.order, ORDERS)
    check_flags(zero_init_spatial=self.zero_init_spatial)
    self._channel(parent=None)
    self._spatial(parent=None)
    super().__post_init__()

  def _channel(self, **place: Any) -> ChannelMLP:
    return ChannelMLP(self.ratio, self.pools, self.bias, dtype=self.dtype, **place)

  def _spatial(self, **place: Any) -> SpatialConv:
    return SpatialConv(self.kernel_size, self.zero_init_spatial, self.dtype, **place)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    channel, spatial = self._channel(name='channel'), self._spatial(name='spatial')
    return compose(self, x, channel, spatial, order=self.order, train=train)
