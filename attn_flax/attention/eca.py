"""Efficient channel attention.

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks"
(CVPR 2020, https://arxiv.org/abs/1910.03151).
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax

from attn_flax import layers
from attn_flax.attention.compose import compose
from attn_flax.errors import check_flags, check_range
from attn_flax.layers.types import Dtype

_MOST_KERNEL = 2**12 - 1


def adaptive_kernel_size(channels: int, gamma: float = 2.0, b: float = 1.0) -> int:
  """The paper's rule: the odd number nearest to `|log2(C) / gamma + b / gamma|`.

  Ties go up: an even value, which lies between two odd ones, takes the larger one. So 128
  channels (4 exactly) give 5 and 2048 channels (6 exactly) give 7.
  """
  whole = int(abs((math.log2(channels) + b) / gamma))
  return whole if whole % 2 else whole + 1


class ChannelConv(nn.Module):
  """Channel gate: a 1-D convolution over the average-pooled channels.

  Attributes:
    kernel_size: taps, an odd number; None: from `adaptive_kernel_size`.
    gamma: divisor of the adaptive rule.
    b: offset of the adaptive rule.
    circular: whether the first and the last channels are neighbors, instead of zero padding.
    dtype: compute dtype.
  """

  kernel_size: int | None = None
  gamma: float = 2.0
  b: float = 1.0
  circular: bool = False
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    if self.kernel_size is not None:
      check_range('kernel_size', self.kernel_size, 1, _MOST_KERNEL, odd=True)
    check_range('gamma', self.gamma, 1e-3, 1e3)
    check_range('b', self.b, -1e3, 1e3)
    check_flags(circular=self.circular)
    layers.check_dtype('dtype', self.dtype)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> logits [N, 1, 1, C]."""
    del train
    size = self.kernel_size
    if size is None:
      size = adaptive_kernel_size(x.shape[-1], self.gamma, self.b)
    y = nn.Conv(
      1,
      (size,),
      padding='CIRCULAR' if self.circular else size // 2,
      use_bias=False,
      kernel_init=layers.torch_default,
      dtype=self.dtype,
      name='conv',
    )(x.mean((1, 2))[..., None])
    return y[:, None, None, :, 0]


class ECA(nn.Module):
  """Efficient channel attention: `x * sigmoid(conv1d(avgpool(x)))`.

  Departures from the paper:
    None by default. The released code never computes the kernel size: it defaults to 3 in every
    stage, and its published weights use 3,5,5,7 (ResNet-50) or 3,3,5,7; to have these, set
    `kernel_size` to them, one number per stage. The paper's rule leaves ties open, see
    `adaptive_kernel_size`. `circular` is not in the paper.

  Attributes:
    kernel_size: taps, an odd number, in a network also one number per stage; None takes the
      adaptive rule.
    gamma: divisor of the adaptive rule.
    b: offset of the adaptive rule.
    circular: whether the first and the last channels are neighbors, instead of zero padding.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'branch'
  default_stages: ClassVar[slice] = slice(None)
  per_stage: ClassVar[tuple[str, ...]] = ('kernel_size',)

  kernel_size: int | None = None
  gamma: float = 2.0
  b: float = 1.0
  circular: bool = False
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    self._channel(parent=None)
    super().__post_init__()

  def _channel(self, **place: Any) -> ChannelConv:
    return ChannelConv(self.kernel_size, self.gamma, self.b, self.circular, self.dtype, **place)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    return compose(self, x, self._channel(name='channel'), train=train)
