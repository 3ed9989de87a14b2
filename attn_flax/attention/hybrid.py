"""Hybrids: any channel part with any spatial part, in any order.

Woo et al., "CBAM: Convolutional Block Attention Module" (ECCV 2018,
https://arxiv.org/abs/1807.06521), section 4.1, compares the orders of two gates.
"""

from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax

from attn_flax.attention.additive import AdditiveChannel, AdditiveSpatial
from attn_flax.attention.bam import MOST_DILATION, SpatialDilated
from attn_flax.attention.cbam import MOST_KERNEL, SpatialConv
from attn_flax.attention.compose import ACTIVATIONS, ORDERS, Part, check_joined, compose
from attn_flax.attention.dot_product import DotProductChannel
from attn_flax.attention.dual import ChannelAttention, PositionAttention
from attn_flax.attention.eca import ChannelConv
from attn_flax.attention.se import ChannelMLP
from attn_flax.errors import UserError, check_choice, check_counts, check_flags, check_range
from attn_flax.layers.types import Dtype, check_dtype

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
    check_counts('hybrid', ratio=self.ratio, position_ratio=self.position_ratio, hidden=self.hidden)
    check_range('hybrid dilation', self.dilation, 1, MOST_DILATION, whole=True)
    check_range('hybrid kernel_size', self.kernel_size, 1, MOST_KERNEL, odd=True)
    check_flags('hybrid', residual=self.residual)
    check_choice('hybrid order', self.order, ORDERS)
    check_choice('hybrid activation', self.activation, ACTIVATIONS)
    check_dtype('hybrid dtype', self.dtype)
    self._check_parts()
    super().__post_init__()

  def _check_parts(self) -> None:
    """Raises `UserError` where no part acts, or the order cannot join the parts that act."""
    only = self.order.removesuffix('_only')
    parts = {'channel': self.channel, 'spatial': self.spatial}
    acting = {kind: parts[kind] for kind in ([only] if only in parts else parts)}
    present = [name for name in acting.values() if name != 'none']
    if not present:
      raise UserError(
        f'hybrid channel={self.channel!r}, spatial={self.spatial!r} and order={self.order!r} leave '
        'no part that acts; name a channel or a spatial gate'
      )
    if len(present) < 2 or not self.order.startswith('parallel'):
      return
    check_joined('hybrid', self.order, self.activation)
    if self.order == 'parallel_product' and set(present) & set(MIXERS):
      raise UserError(
        f'hybrid order={self.order!r} multiplies gates, but one of {" and ".join(present)} returns '
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
    channel = CHANNEL[self.channel](self) if self.channel != 'none' else None
    spatial = SPATIAL[self.spatial](self) if self.spatial != 'none' else None
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


Maker = Callable[[Hybrid], Part]

CHANNEL: dict[str, Maker] = {
  'se': lambda h: ChannelMLP(h.ratio, dtype=h.dtype, name='channel'),
  'eca': lambda h: ChannelConv(dtype=h.dtype, name='channel'),
  'cbam': lambda h: ChannelMLP(h.ratio, ('avg', 'max'), dtype=h.dtype, name='channel'),
  'bam': lambda h: ChannelMLP(h.ratio, norm=True, dtype=h.dtype, name='channel'),
  'dual': lambda h: ChannelAttention(dtype=h.dtype, name='channel'),
  'dot_product': lambda h: DotProductChannel(h.hidden, h.dtype, name='channel'),
  'additive': lambda h: AdditiveChannel(h.hidden, h.dtype, name='channel'),
}
SPATIAL: dict[str, Maker] = {
  'cbam': lambda h: SpatialConv(h.kernel_size, dtype=h.dtype, name='spatial'),
  'bam': lambda h: SpatialDilated(h.ratio, h.dilation, dtype=h.dtype, name='spatial'),
  'additive': lambda h: AdditiveSpatial(h.ratio, h.dtype, name='spatial'),
  'position': lambda h: PositionAttention(h.position_ratio, h.dtype, name='spatial'),
}
