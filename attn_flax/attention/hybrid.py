"""Hybrids: any channel part with any spatial part, in any order.

Woo et al., "CBAM: Convolutional Block Attention Module" (ECCV 2018,
https://arxiv.org/abs/1807.06521), section 4.1, compares the orders of two gates.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from attn_flax.attention.additive import AdditiveChannel, AdditiveSpatial
from attn_flax.attention.bam import SpatialDilated
from attn_flax.attention.cbam import SpatialConv
from attn_flax.attention.compose import ACTIVATIONS, ORDERS, Part, check_joined, compose
from attn_flax.attention.dot_product import DotProductChannel
from attn_flax.attention.dual import ChannelAttention, PositionAttention
from attn_flax.attention.eca import ChannelConv
from attn_flax.attention.se import ChannelMLP
from attn_flax.errors import UserError, check_choice, check_counts, check_flags
from attn_flax.layers.types import Dtype

MIXERS = ('dual', 'position')  # Parts that return a feature map to be added.


class Hybrid(nn.Module):
  """Any channel part with any spatial part, each as in its own mechanism.

  Departures from the paper:
    No paper describes hybrids; each part is as in its own mechanism, see `CHANNEL` and `SPATIAL`.

  Attributes:
    channel: one of `CHANNEL`, or 'none'.
    spatial: one of `SPATIAL`, or 'none'.
    order: one of `compose.ORDERS`.
    residual: whether the input is added to the result.
    activation: 'sigmoid' or 'softmax', which turns logits into gates.
    ratio: channels per hidden unit, in the gates that have hidden units.
    position_ratio: channels per query and key dimension of the 'position' part.
    kernel_size: side of the 'cbam' gate's convolution.
    dilation: dilation of the 'bam' gate.
    hidden: length of the embeddings of the 'additive' and 'dot_product' channel gates.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'branch'
  default_stages: ClassVar[slice] = slice(None)

  channel: str = 'eca'
  spatial: str = 'cbam'
  order: str = 'channel_first'
  residual: bool = False
  activation: str = 'sigmoid'
  ratio: int = 16
  position_ratio: int = 8
  kernel_size: int = 7
  dilation: int = 4
  hidden: int = 8
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_choice('channel gate', self.channel, (*CHANNEL, 'none'))
    check_choice('spatial gate', self.spatial, (*SPATIAL, 'none'))
    check_choice('order', self.order, ORDERS)
    check_choice('activation', self.activation, ACTIVATIONS)
    check_counts(position_ratio=self.position_ratio)
    check_flags(residual=self.residual)
    for make in (*CHANNEL.values(), *SPATIAL.values()):  # Also parts that are not chosen.
      make(self)(parent=None)
    self._check_acting()
    super().__post_init__()

  def _check_acting(self) -> None:
    """Raises `UserError` where no part acts, or the order cannot join the parts that act."""
    only = self.order.removesuffix('_only')
    parts = {'channel': self.channel, 'spatial': self.spatial}
    acting = {kind: parts[kind] for kind in ([only] if only in parts else parts)}
    present = [name for name in acting.values() if name != 'none']
    if not present:
      raise UserError(
        f'channel={self.channel!r}, spatial={self.spatial!r} and order={self.order!r} leave '
        'no part that acts; name a channel or a spatial gate'
      )
    if len(present) < 2 or not self.order.startswith('parallel'):
      return
    check_joined(self.order, self.activation)
    if self.order == 'parallel_product' and set(present) & set(MIXERS):
      raise UserError(
        f'order={self.order!r} multiplies gates, but one of {" and ".join(present)} returns '
        'a feature map to be added; take channel_first, spatial_first or parallel_sum'
      )

  @property
  def starts_as_identity(self) -> bool:
    """Whether the freshly initialized module returns its input: only mixers act, no residual."""
    only = self.order.removesuffix('_only')
    gates = {
      'channel': self.channel not in (*MIXERS, 'none'),
      'spatial': self.spatial not in (*MIXERS, 'none'),
    }
    acting = [gates[only]] if only in gates else gates.values()
    return not any(acting) and not self.residual

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    channel = CHANNEL[self.channel](self)(name='channel') if self.channel != 'none' else None
    spatial = SPATIAL[self.spatial](self)(name='spatial') if self.spatial != 'none' else None
    return compose(
      self,
      x,
      channel,
      spatial,
      order=self.order,
      residual=self.residual,
      activation=self.activation,
      train=train,
    )


# Takes a part's fields from those of a hybrid; parent and name of the part are still open.
Maker = Callable[[Hybrid], Callable[..., Part]]

CHANNEL: dict[str, Maker] = {
  'se': lambda h: partial(ChannelMLP, h.ratio, dtype=h.dtype),
  'eca': lambda h: partial(ChannelConv, dtype=h.dtype),
  'cbam': lambda h: partial(ChannelMLP, h.ratio, ('avg', 'max'), dtype=h.dtype),
  'bam': lambda h: partial(ChannelMLP, h.ratio, norm=True, dtype=h.dtype),
  'dual': lambda h: partial(ChannelAttention, dtype=h.dtype),
  'dot_product': lambda h: partial(DotProductChannel, h.hidden, h.dtype),
  'additive': lambda h: partial(AdditiveChannel, h.hidden, h.dtype),
}
SPATIAL: dict[str, Maker] = {
  'cbam': lambda h: partial(SpatialConv, h.kernel_size, dtype=h.dtype),
  'bam': lambda h: partial(SpatialDilated, h.ratio, h.dilation, dtype=h.dtype),
  'additive': lambda h: partial(AdditiveSpatial, h.ratio, h.dtype),
  'position': lambda h: partial(PositionAttention, h.position_ratio, h.dtype),
}
