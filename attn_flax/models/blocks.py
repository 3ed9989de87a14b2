"""Residual blocks, and where attention acts in them."""

import functools

import flax.linen as nn
import jax

from attn_flax import layers
from attn_flax.errors import UserError
from attn_flax.layers.types import Dtype
from attn_flax.models.placement import Placement, at, refine


class Block(nn.Module):
  """A residual block: two 3x3 convolutions (basic), or 1x1, 3x3, 1x1 (bottleneck).

  Attributes:
    planes: width of the block; a bottleneck's output has four times as many channels.
    stage: number of its stage, from 1.
    stride: step of the block.
    bottleneck: whether it is a bottleneck.
    stride_in: '3x3' or '1x1', the convolution of a bottleneck that takes the stride.
    groups: groups of the bottleneck's 3x3 convolution.
    base_width: width of a group at 64 planes.
    shortcut: 'conv' (strided 1x1 convolution) or 'avg' (2x2 average pool, then 1x1 convolution).
    branch_relu: whether a ReLU follows the branch's last norm.
    drop_path: share of the images that skip the branch in training.
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
  shortcut: str = 'conv'
  branch_relu: bool = False
  drop_path: float = 0.0
  zero_init_last: bool = False
  attention: tuple[Placement, ...] = ()
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), planes or 4 * planes]."""
    conv = functools.partial(layers.conv, dtype=self.dtype)
    norm = functools.partial(layers.BatchNorm, train, dtype=self.dtype)
    last = nn.initializers.zeros if self.zero_init_last else nn.initializers.ones

    if self.bottleneck:
      first, second = (self.stride, 1) if self.stride_in == '1x1' else (1, self.stride)
      width = int(self.planes * self.base_width / 64) * self.groups
      if not width:
        raise UserError(
          f'base_width={self.base_width} leaves the groups of a block with planes={self.planes} '
          'no channel; raise base_width, or the width of the stage'
        )
      y = nn.relu(norm(name='norm1')(conv(width, 1, first, name='conv1')(x)))
      y = conv3x3(self, y, width, second, 'conv2', groups=self.groups)
      y = nn.relu(norm(name='norm2')(y))
      y = norm(scale_init=last, name='norm3')(conv(4 * self.planes, 1, name='conv3')(y))
    else:
      y = conv3x3(self, x, self.planes, self.stride, 'conv1')
      y = nn.relu(norm(name='norm1')(y))
      y = norm(scale_init=last, name='norm2')(conv(self.planes, 3, name='conv2')(y))

    y = nn.relu(y) if self.branch_relu else y
    y = refine(self, self.attention, 'branch', y, self.stage, train=train)
    if x.shape != y.shape:
      stride = self.stride
      if self.shortcut == 'avg' and stride == 2:
        x, stride = layers.halve(x), 1
      x = conv(y.shape[-1], 1, stride, name='shortcut_conv')(x)
      x = norm(name='shortcut_norm')(x)
    y = nn.relu(x + drop_path(y, self.drop_path, train))
    return refine(self, self.attention, 'block', y, self.stage, train=train)


class PreActivationBlock(nn.Module):
  """A pre-activation block: norm, ReLU, 3x3, norm, ReLU, dropout, 3x3.

  Where the width changes, the first norm and ReLU also serve the shortcut's 1x1 convolution.

  Attributes:
    planes: width of the block.
    stage: number of its stage, from 1.
    stride: step of the block.
    dropout: share of the activations dropped between the two convolutions.
    drop_path: share of the images that skip the branch in training.
    attention: the placements that act in this block; as it has no last norm, `branch` acts on the
      output of its last convolution.
    dtype: compute dtype.
  """

  planes: int
  stage: int
  stride: int = 1
  dropout: float = 0.0
  drop_path: float = 0.0
  attention: tuple[Placement, ...] = ()
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), planes]."""
    conv = functools.partial(layers.conv, dtype=self.dtype)
    norm = functools.partial(layers.BatchNorm, train, dtype=self.dtype)

    y = nn.relu(norm(name='norm1')(x))
    if x.shape[-1] != self.planes or self.stride > 1:
      x = conv(self.planes, 1, self.stride, name='shortcut_conv')(y)
    y = conv3x3(self, y, self.planes, self.stride, 'conv1')
    y = nn.relu(norm(name='norm2')(y))
    y = nn.Dropout(self.dropout, deterministic=not train, name='dropout')(y)
    y = conv(self.planes, 3, name='conv2')(y)
    y = refine(self, self.attention, 'branch', y, self.stage, train=train)
    y = x + drop_path(y, self.drop_path, train)
    return refine(self, self.attention, 'block', y, self.stage, train=train)


def drop_path(y: jax.Array, rate: float, train: bool) -> jax.Array:
  """Stochastic depth: sets a branch [N, H, W, C] to 0 for a share of the images, in training.

  Huang et al., "Deep Networks with Stochastic Depth" (ECCV 2016, https://arxiv.org/abs/1603.09382).
  Branches that are kept are scaled by 1 / (1 - rate) in training, where the paper scales all
  branches by 1 - rate in evaluation.
  """
  if not rate:
    return y
  drop = nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train, name='drop_path')
  return drop(y)


def conv3x3(
  block: Block | PreActivationBlock,
  x: jax.Array,
  features: int,
  stride: int,
  name: str,
  groups: int = 1,
) -> jax.Array:
  """Applies the 3x3 convolution of a block to x, or the mechanism that replaces it."""
  if replaced := at(block.attention, 'conv'):
    return replaced.make(block.stage, features=features, stride=stride)(x)
  return layers.conv(features, 3, stride, groups=groups, dtype=block.dtype, name=name)(x)
