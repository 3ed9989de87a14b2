"""Spatial and channel-wise attention, one after the other.

Chen et al., "SCA-CNN: Spatial and Channel-wise Attention in Convolutional Networks for Image
Captioning" (CVPR 2017, https://arxiv.org/abs/1611.05594).
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax

from attn_flax.attention.additive import AdditiveChannel, AdditiveSpatial
from attn_flax.attention.compose import ACTIVATIONS, ORDERS, check_joined, compose
from attn_flax.errors import check_choice
from attn_flax.layers.types import Dtype


class SCA(nn.Module):
  """Additive attention over channels, then over positions (or the other way round).

  Departures from the paper:
    The paper's query is the state of a caption decoder; here it is the mean of the feature map. As
    in the released code, channels come first, and each softmax is multiplied by the number of its
    entries, so that the gates are 1 on average. With `activation='sigmoid'` gates do not compete. A
    channel is described by its mean, its maximum and a learned vector of its own, embedded in
    `hidden` numbers; in the paper by its mean alone, embedded in 512.

  Attributes:
    order: one of `compose.ORDERS`; the paper compares channel_first with spatial_first.
    activation: 'softmax' or 'sigmoid'.
    ratio: channels per hidden unit of the spatial scores.
    hidden: hidden units of the channel scores.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'branch'
  default_stages: ClassVar[slice] = slice(-1, None)

  order: str = 'channel_first'
  activation: str = 'softmax'
  ratio: int = 4
  hidden: int = 8
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_choice('order', self.order, ORDERS)
    check_choice('activation', self.activation, ACTIVATIONS)
    check_joined(self.order, self.activation)
    self._channel(parent=None)
    self._spatial(parent=None)
    super().__post_init__()

  def _channel(self, **place: Any) -> AdditiveChannel:
    return AdditiveChannel(self.hidden, self.dtype, **place)

  def _spatial(self, **place: Any) -> AdditiveSpatial:
    return AdditiveSpatial(self.ratio, self.dtype, **place)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    channel, spatial = self._channel(name='channel'), self._spatial(name='spatial')
    return compose(
      self, x, channel, spatial, order=self.order, activation=self.activation, train=train
    )
