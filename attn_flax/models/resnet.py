"""Residual networks: one class for ResNet, ResNet-D, WideResNet and ResNeXt.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016,
https://arxiv.org/abs/1512.03385), sections 3.3 (ImageNet) and 4.2 (CIFAR).
Zagoruyko and Komodakis, "Wide Residual Networks" (BMVC 2016, https://arxiv.org/abs/1605.07146):
`block='preact'`.
Xie et al., "Aggregated Residual Transformations for Deep Neural Networks" (CVPR 2017,
https://arxiv.org/abs/1611.05431): `groups`.
He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks" (CVPR 2019,
https://arxiv.org/abs/1812.01187): `stem='deep'`, `shortcut='avg'`.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.errors import (
  UserError,
  check_choice,
  check_counts,
  check_flags,
  check_range,
  check_tuple,
)
from attn_flax.models.blocks import Block, PreActivationBlock
from attn_flax.models.network import (
  MOST_BLOCKS,
  Output,
  check_classes,
  check_images,
  dtype_name,
)
from attn_flax.models.placement import PLACES, Placement, refine


class ResNet(nn.Module):
  """A residual network over images [N, H, W, 3], with attention at the places it is given.

  Attributes:
    depths: blocks per stage.
    widths: planes per stage.
    block: 'basic', 'bottleneck', or 'preact' (basic, with norms and ReLUs before convolutions).
    num_classes: number of logits; None: no head, and the network returns its feature maps.
    stem: 'imagenet' (7x7 of stride 2), 'deep' (three 3x3 in its place) or 'tiered' (the same with a
      narrower first one), each followed by a max-pool of stride 2; or 'cifar' (3x3).
    stem_width: output channels of the stem.
    stride_in: '3x3' (v1.5, as torchvision) or '1x1' (v1, as the paper); bottlenecks only.
    groups: groups of the 3x3 convolutions; bottlenecks only.
    base_width: width of a group at 64 planes; bottlenecks only.
    shortcut: 'conv' (strided 1x1 convolution) or 'avg' (average pool, then 1x1 convolution).
    max_pool: the stem's pool, 'torch' (pads by 1, rounds down) or 'caffe' (no padding, rounds up).
    branch_relu: whether a ReLU follows each branch's last norm.
    dropout: share of the activations dropped in training: between the convolutions of
      pre-activation blocks, in the other networks before the head.
    drop_path: stochastic depth: the share of the images that skip the last block's branch in
      training; over the blocks it grows linearly to this value.
    frozen: stages, 0 being the stem, whose norms use and keep their running statistics in training;
      the optimizer leaves their weights as they are.
    zero_init_last: whether each block's last norm starts with scale 0. Every gate after such a
      norm then has a gradient of exactly 0 at the first step, so the default is False.
    attention: the placements of attention modules.
    dtype: compute dtype, 'float32' or 'bfloat16'; parameters and logits are float32.
  """

  places: ClassVar[tuple[str, ...]] = PLACES
  conv_stages: ClassVar[slice | None] = None

  depths: tuple[int, ...]
  widths: tuple[int, ...]
  block: str = 'basic'
  num_classes: int | None = 1000
  stem: str = 'imagenet'
  stem_width: int = 64
  stride_in: str = '3x3'
  groups: int = 1
  base_width: int = 64
  shortcut: str = 'conv'
  max_pool: str = 'torch'
  branch_relu: bool = False
  dropout: float = 0.0
  drop_path: float = 0.0
  frozen: tuple[int, ...] = ()
  zero_init_last: bool = False
  attention: tuple[Placement, ...] = ()
  dtype: str = 'float32'

  @property
  def num_stages(self) -> int:
    """Number of stages."""
    return len(self.depths)

  @property
  def stride(self) -> int:
    """Input pixels per pixel of the last feature map, along a side."""
    return (1 if self.stem == 'cifar' else 4) * 2 ** (len(self.depths) - 1)

  def check(self) -> None:
    """Raises `UserError` for fields that are impossible, do not go together or would do nothing."""
    check_choice('block', self.block, ('basic', 'bottleneck', 'preact'))
    check_choice('stem', self.stem, ('imagenet', 'cifar', 'deep', 'tiered'))
    check_choice('stride_in', self.stride_in, ('3x3', '1x1'))
    check_choice('shortcut', self.shortcut, ('conv', 'avg'))
    check_choice('max_pool', self.max_pool, ('torch', 'caffe'))
    dtype_name(self.dtype)
    check_tuple('depths', self.depths, most=MOST_BLOCKS)
    check_tuple('widths', self.widths)
    check_counts(stem_width=self.stem_width, groups=self.groups, base_width=self.base_width)
    check_classes(self.num_classes)
    check_flags(branch_relu=self.branch_relu, zero_init_last=self.zero_init_last)
    check_range('dropout', self.dropout, 0, below=1)
    check_range('drop_path', self.drop_path, 0, below=1)
    if len(self.depths) != len(self.widths):
      raise UserError(
        f'depths={self.depths} and widths={self.widths} differ in length; give both one number per '
        'stage'
      )
    check_tuple('frozen', self.frozen, 0)
    if not set(self.frozen) <= set(range(self.num_stages + 1)):
      raise UserError(
        f'frozen={self.frozen} names stages that do not exist; allowed: 0 (the stem) to '
        f'{self.num_stages}'
      )
    if self.block != 'bottleneck' and (self.groups, self.base_width) != (1, 64):
      raise UserError(
        f'groups={self.groups} and base_width={self.base_width} act in bottleneck blocks only; '
        "leave them out, or take block='bottleneck'"
      )
    idle = {
      f'zero_init_last={self.zero_init_last}': self.zero_init_last,
      f'shortcut={self.shortcut!r}': self.shortcut != 'conv',
      f'branch_relu={self.branch_relu}': self.branch_relu,
    }
    for field, is_set in idle.items():
      if self.block == 'preact' and is_set:
        raise UserError(f'{field} does nothing in preact blocks; leave it out')

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> Output:
    """Normalized images [N, H, W, 3] to logits [N, num_classes] float32, or to feature maps.

    Returns:
      The logits; without a head the feature maps of the stages, 'stage1' to the last.

    Raises:
      UserError: for images smaller than the network's stride, or impossible fields.
    """
    self.check()
    check_images(x, self.stride, "use larger images, fewer stages or stem='cifar'")
    dtype = jnp.dtype(self.dtype)
    learns = [train and stage not in self.frozen for stage in range(self.num_stages + 1)]
    x = self._stem(x.astype(dtype), learns[0])
    blocks = 0
    maps = {}
    for stage, (depth, planes) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
      for i in range(depth):
        blocks += 1
        x = self._block(
          planes=planes,
          stage=stage,
          stride=2 if stage > 1 and i == 0 else 1,
          drop_path=self.drop_path * blocks / sum(self.depths),
          attention=tuple(p for p in self.attention if p.acts(stage, i)),
          dtype=dtype,
          name=f'stage{stage}_block{i + 1}',
        )(x, train=learns[stage])
      x = refine(self, self.attention, 'stage', x, stage, train=learns[stage])
      if self.block == 'preact' and stage == self.num_stages:
        # Before the tap, so that only a mean and a dense layer lie between the last feature map and
        # the logits, as in the other networks.
        x = nn.relu(layers.BatchNorm(learns[stage], dtype=dtype, name='last_norm')(x))
      x = maps[f'stage{stage}'] = layers.tap(self, f'stage{stage}', x)
    if self.num_classes is None:
      return maps
    x = x.astype(jnp.float32).mean((1, 2))
    if self.dropout and self.block != 'preact':
      x = nn.Dropout(self.dropout, deterministic=not train, name='dropout')(x)
    return layers.dense(self.num_classes, name='head')(x)

  def _stem(self, x: jax.Array, train: bool) -> jax.Array:
    """[N, H, W, 3] -> [N, H / 4, W / 4, stem_width], or [N, H, W, stem_width] for 'cifar'."""
    conv = functools.partial(layers.conv, dtype=x.dtype)
    norm = functools.partial(layers.BatchNorm, train, dtype=x.dtype)
    width = self.stem_width
    if self.stem in ('deep', 'tiered'):
      first = width // 2 if self.stem == 'deep' else 3 * width // 8
      for i, features in enumerate((first, width // 2, width), start=1):
        x = conv(features, 3, 2 if i == 1 else 1, name=f'stem_conv{i}')(x)
        x = nn.relu(norm(name=f'stem_norm{i}')(x))
    else:
      kernel, stride = (3, 1) if self.stem == 'cifar' else (7, 2)
      x = conv(width, kernel, stride, name='stem_conv')(x)
      # Pre-activation blocks begin with a norm of their own.
      x = x if self.block == 'preact' else nn.relu(norm(name='stem_norm')(x))
    if self.stem == 'cifar':
      return x
    if self.max_pool == 'caffe':
      return layers.max_pool(x, 3, 2, 0, round_up=True)
    return layers.max_pool(x, 3, 2, 1)

  @property
  def _block(self) -> Callable[..., nn.Module]:
    if self.block == 'preact':
      return functools.partial(PreActivationBlock, dropout=self.dropout)
    return functools.partial(
      Block,
      bottleneck=self.block == 'bottleneck',
      stride_in=self.stride_in,
      groups=self.groups,
      base_width=self.base_width,
      shortcut=self.shortcut,
      branch_relu=self.branch_relu,
      zero_init_last=self.zero_init_last,
    )
