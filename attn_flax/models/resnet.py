"""Residual networks, and where attention acts in them.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016,
https://arxiv.org/abs/1512.03385), sections 3.3 (ImageNet) and 4.2 (CIFAR).
Xie et al., "Aggregated Residual Transformations for Deep Neural Networks" (CVPR 2017,
https://arxiv.org/abs/1611.05431): `groups`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.errors import UserError, check_choice
from attn_flax.models.placement import Placement, at


class Block(nn.Module):
  """A residual block: two 3x3 convolutions (basic), or 1x1, 3x3, 1x1 (bottleneck).

  Attributes:
    planes: width of the block; a bottleneck's output has four times as many channels.
    stage: number of its stage, from 1.
    stride: step of the block.
    bottleneck: which of the two forms.
    stride_in: '3x3' or '1x1', the convolution of a bottleneck that takes the stride.
    groups: groups of the bottleneck's 3x3 convolution.
    base_width: width of a group at 64 planes.
    zero_init_last: whether the last norm's scale starts at 0.
    attention: the placements that act in this block.
    dtype: compute dtype.
  """

  planes: int
  stage: int
  stride: int = 1
  bottleneck: bool = False
  stride_in: str = '3x3'
  groups: int = 1
  base_width: int = 64
  zero_init_last: bool = False
  attention: tuple[Placement, ...] = ()
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), planes or 4 * planes]."""
    conv = functools.partial(layers.conv, dtype=self.dtype)
    norm = functools.partial(layers.BatchNorm, train, dtype=self.dtype)
    last = nn.initializers.zeros if self.zero_init_last else nn.initializers.ones

    if self.bottleneck:
      first, second = (self.stride, 1) if self.stride_in == '1x1' else (1, self.stride)
      width = int(self.planes * self.base_width / 64) * self.groups
      y = nn.relu(norm(name='norm1')(conv(width, 1, first, name='conv1')(x)))
      y = self._conv3x3(y, width, second, 'conv2', groups=self.groups)
      y = nn.relu(norm(name='norm2')(y))
      y = conv(4 * self.planes, 1, name='conv3')(y)
      y = norm(scale_init=last, name='norm3')(y)
    else:
      y = self._conv3x3(x, self.planes, self.stride, 'conv1')
      y = nn.relu(norm(name='norm1')(y))
      y = conv(self.planes, 3, name='conv2')(y)
      y = norm(scale_init=last, name='norm2')(y)

    if branch := at(self.attention, 'branch'):
      y = branch.make(self.stage)(y, train=train)
    if x.shape != y.shape:
      x = conv(y.shape[-1], 1, self.stride, name='shortcut_conv')(x)
      x = norm(name='shortcut_norm')(x)
    y = nn.relu(x + y)
    if block := at(self.attention, 'block'):
      y = block.make(self.stage)(y, train=train)
    return y

  def _conv3x3(self, x, features, stride, name, groups=1):
    """The 3x3 convolution that attention may stand in for."""
    if replaced := at(self.attention, 'conv'):
      return replaced.make(self.stage, features=features, stride=stride)(x)
    return layers.conv(features, 3, stride, groups=groups, dtype=self.dtype, name=name)(x)


class ResNet(nn.Module):
  """A residual network over images [N, H, W, 3], with attention at the places it is given.

  Attributes:
    depths: blocks per stage.
    widths: planes per stage.
    bottleneck: bottleneck blocks instead of basic ones.
    num_classes: number of logits.
    stem: 'imagenet' (7x7 convolution of stride 2, max-pool of stride 2) or 'cifar' (3x3).
    stem_width: channels of the stem.
    stride_in: '3x3' (v1.5, as torchvision) or '1x1' (v1, as the paper); bottlenecks only.
    groups: groups of the 3x3 convolutions; bottlenecks only.
    base_width: width of a group at 64 planes; bottlenecks only.
    zero_init_last: whether each block's last norm starts with scale 0. Every gate behind such a
      norm then has an exactly zero gradient at the first step, so the default is False.
    attention: the placements of attention modules.
    dtype: compute dtype, 'float32' or 'bfloat16'; parameters and logits are float32.
  """

  depths: tuple[int, ...]
  widths: tuple[int, ...]
  bottleneck: bool = False
  num_classes: int = 1000
  stem: str = 'imagenet'
  stem_width: int = 64
  stride_in: str = '3x3'
  groups: int = 1
  base_width: int = 64
  zero_init_last: bool = False
  attention: tuple[Placement, ...] = ()
  dtype: str = 'float32'

  @property
  def stride(self) -> int:
    """Input pixels per pixel of the last map."""
    return (4 if self.stem == 'imagenet' else 1) * 2 ** (len(self.depths) - 1)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images [N, H, W, 3], normalised, to logits [N, num_classes] float32.

    Raises:
      UserError: for images smaller than the network's stride, or options it does not know.
    """
    check_choice('stem', self.stem, ('imagenet', 'cifar'))
    check_choice('stride_in', self.stride_in, ('3x3', '1x1'))
    check_choice('dtype', self.dtype, ('float32', 'bfloat16'))
    if min(x.shape[1:3]) < self.stride:
      raise UserError(
        f'images of {x.shape[1]}x{x.shape[2]} pixels are too small for this network, which takes '
        f"{self.stride}x{self.stride} and more; use larger images, fewer stages or stem='cifar'"
      )
    dtype = jnp.dtype(self.dtype)
    conv = functools.partial(layers.conv, dtype=dtype)
    norm = functools.partial(layers.BatchNorm, train, dtype=dtype)

    x = x.astype(dtype)
    if self.stem == 'imagenet':
      x = conv(self.stem_width, 7, 2, name='stem_conv')(x)
      x = layers.max_pool(nn.relu(norm(name='stem_norm')(x)), 3, 2, 1)
    else:
      x = nn.relu(norm(name='stem_norm')(conv(self.stem_width, 3, name='stem_conv')(x)))

    for stage, (depth, planes) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
      for i in range(depth):
        x = Block(
          planes,
          stage,
          stride=2 if stage > 1 and i == 0 else 1,
          bottleneck=self.bottleneck,
          stride_in=self.stride_in,
          groups=self.groups,
          base_width=self.base_width,
          zero_init_last=self.zero_init_last,
          attention=tuple(p for p in self.attention if p.acts(stage, i)),
          dtype=dtype,
          name=f'stage{stage}_block{i + 1}',
        )(x, train=train)
      behind = at(self.attention, 'stage')
      if behind and stage in behind.stages:
        x = behind.make(stage)(x, train=train)
      x = layers.tap(self, f'stage{stage}', x)

    x = x.astype(jnp.float32).mean((1, 2))
    return layers.dense(self.num_classes, name='head')(x)
