"""MnasNet-A1: inverted residual blocks, some with squeeze-and-excitation inside.

Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile" (CVPR 2019,
https://arxiv.org/abs/1807.11626), figure 7. What the paper leaves open (widths, norms,
initialization, padding) is as in the released code,
https://github.com/tensorflow/tpu/tree/master/models/official/mnasnet.
"""

import functools
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.errors import UserError, check_choice, check_range, check_tuple
from attn_flax.layers.types import Dtype
from attn_flax.models.network import MOST_BLOCKS, Output, check_classes, check_images, dtype_name
from attn_flax.models.placement import PLACES, Placement, at, field_names, refine

_HEAD_WIDTH = 1280  # The same at every width multiplier.

_norm = functools.partial(layers.BatchNorm, momentum=0.99, epsilon=1e-3)
# He initialization by fan-out: each channel of a depthwise convolution has one input and one
# output, so that fan-in and fan-out are equal.
_depthwise_init = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
_head_init = nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')


class Stage(NamedTuple):
  """A row of the paper's figure 7, without its depth; the stride is the first block's."""

  kernel: int
  stride: int
  expansion: int
  width: int
  se: bool
  shortcut: bool


_STAGES = (
  Stage(3, 1, 1, 16, se=False, shortcut=False),
  Stage(3, 2, 6, 24, se=False, shortcut=True),
  Stage(5, 2, 3, 40, se=True, shortcut=True),
  Stage(3, 2, 6, 80, se=False, shortcut=True),
  Stage(3, 1, 6, 112, se=True, shortcut=True),
  Stage(5, 2, 6, 160, se=True, shortcut=True),
  Stage(3, 1, 6, 320, se=False, shortcut=True),
)


def scaled_width(width: int, multiplier: float) -> int:
  """`width * multiplier`, rounded to a multiple of 8, and up where rounding loses over 10 %."""
  exact = width * multiplier
  rounded = max(8, int(exact + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * exact else rounded


def _pads(size: int, kernel: int, stride: int, padding: str) -> tuple[int, int]:
  """How many zeros are added before and after an axis."""
  if padding == 'torch':
    return kernel // 2, kernel // 2
  total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
  return total // 2, total - total // 2


class SqueezeExcite(nn.Module):
  """The gate inside a block, `x * sigmoid(W2 relu(W1 avgpool(x)))`, with biases.

  It is part of the network and stays where attention modules are added.

  Attributes:
    hidden: hidden units; a quarter of the channels of the block's input.
    dtype: compute dtype.
  """

  hidden: int
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    dense = functools.partial(nn.Dense, kernel_init=layers.he_fan_out, dtype=self.dtype)
    y = nn.relu(dense(self.hidden, name='reduce')(x.mean((1, 2))))
    gate = nn.sigmoid(dense(x.shape[-1], name='expand')(y))
    self.sow('intermediates', 'channel_gate', gate)
    return x * gate[:, None, None]


class InvertedResidual(nn.Module):
  """1x1 expansion, depthwise convolution, squeeze-and-excitation or not, 1x1 projection.

  A norm follows each convolution, and a ReLU each norm but the last. The input is added where the
  shape is kept and the row has shortcuts.

  Attributes:
    row: what all blocks of the stage have in common.
    width: output channels.
    stage: number of its stage, from 1.
    stride: step of the block.
    padding: 'same' or 'torch', see `MnasNet`.
    attention: the placements that act in this block.
    dtype: compute dtype.
  """

  row: Stage
  width: int
  stage: int
  stride: int = 1
  padding: str = 'same'
  attention: tuple[Placement, ...] = ()
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), width]."""
    norm = functools.partial(_norm, train, dtype=self.dtype)
    y, kernel = x, self.row.kernel
    if self.row.expansion > 1:
      y = nn.relu(norm(name='expand_norm')(self._expand(y)))
    elif at(self.attention, 'conv'):
      raise UserError(
        f"stage {self.stage} of MnasNet has no expansion, which attention at 'conv' would replace; "
        'leave this stage out of its stages'
      )
    y = nn.Conv(
      y.shape[-1],
      (kernel, kernel),
      (self.stride, self.stride),
      [_pads(size, kernel, self.stride, self.padding) for size in y.shape[1:3]],
      feature_group_count=y.shape[-1],
      use_bias=False,
      kernel_init=_depthwise_init,
      conv_general_dilated=layers.depthwise_conv,
      dtype=self.dtype,
      name='depthwise_conv',
    )(y)
    y = nn.relu(norm(name='depthwise_norm')(y))
    if self.row.se:
      y = SqueezeExcite(max(1, x.shape[-1] // 4), self.dtype, name='se')(y)
    y = layers.conv(self.width, 1, dtype=self.dtype, name='project_conv')(y)
    y = norm(name='project_norm')(y)
    y = refine(self, self.attention, 'branch', y, self.stage, train=train)
    if self.row.shortcut and x.shape == y.shape:
      y = x + y
    return refine(self, self.attention, 'block', y, self.stage, train=train)

  def _expand(self, x: jax.Array) -> jax.Array:
    """The 1x1 convolution to more channels, or the mechanism that replaces it."""
    features = self.row.expansion * x.shape[-1]
    replaced = at(self.attention, 'conv')
    if not replaced:
      return layers.conv(features, 1, dtype=self.dtype, name='expand_conv')(x)
    # A 3x3 convolution to as many channels would have more weights than the rest of the block.
    kernel = {'kernel': 1} if 'kernel' in field_names(replaced.module) else {}
    return replaced.make(self.stage, features=features, stride=1, **kernel)(x)


class MnasNet(nn.Module):
  """MnasNet-A1 over images [N, H, W, 3], with attention at the places it is given.

  Its seven stages are the rows of the paper's figure 7. Attention acts at
    conv:   in place of a block's 1x1 expansion, from stage 2 on. This augmented form is our own
            and not checked against that of Bello et al. (ICCV 2019,
            https://arxiv.org/abs/1904.09925). Of the block's convolutions, the expansion has the
            fewest inputs, so that queries, keys and values cost the fewest parameters.
            `conv_stages`, the default, are those where images of 224x224 pixels have feature maps
            of 14x14 at most.
    branch: on the branch after its last norm, before the addition where there is one.
    block:  after the block; no ReLU ends it.
    stage:  after a stage.

  Attributes:
    width_multiplier: factor of all widths but the head's 1280, which are then rounded to multiples
      of 8.
    depths: blocks per stage.
    num_classes: number of logits; None: no head, and the network returns its feature maps.
    stem: 'imagenet' (stride 2), or 'cifar' (our own, for small images): neither the stem nor stage
      2 has a stride, so that the last feature map is 1/8 of the image and not 1/32.
    padding: 'same' pads strided convolutions on even sizes by one more pixel at the end than at the
      start, as in the released TensorFlow code; 'torch' by the same on both sides, as in PyTorch.
    dropout: share of the head's inputs dropped in training, which then needs
      `rngs={'dropout': key}`.
    attention: the placements of attention modules.
    dtype: compute dtype, 'float32' or 'bfloat16'; parameters and logits are float32.
  """

  places: ClassVar[tuple[str, ...]] = PLACES
  conv_stages: ClassVar[slice | None] = slice(4, None)
  groups: ClassVar[int] = 1
  frozen: ClassVar[tuple[int, ...]] = ()

  width_multiplier: float = 1.0
  depths: tuple[int, ...] = (1, 2, 3, 4, 2, 3, 1)
  num_classes: int | None = 1000
  stem: str = 'imagenet'
  padding: str = 'same'
  dropout: float = 0.2
  attention: tuple[Placement, ...] = ()
  dtype: str = 'float32'

  @property
  def num_stages(self) -> int:
    """Number of stages."""
    return len(_STAGES)

  @property
  def stride(self) -> int:
    """Input pixels per pixel of the last feature map, along a side."""
    return 32 if self.stem == 'imagenet' else 8

  def check(self) -> None:
    """Raises `UserError` for fields that are impossible."""
    check_choice('stem', self.stem, ('imagenet', 'cifar'))
    check_choice('padding', self.padding, ('same', 'torch'))
    dtype_name(self.dtype)
    check_tuple('depths', self.depths, most=MOST_BLOCKS)
    if len(self.depths) != len(_STAGES):
      raise UserError(f'depths={self.depths} must be {len(_STAGES)} numbers, the blocks per stage')
    check_classes(self.num_classes)
    check_range('width_multiplier', self.width_multiplier, 0.01, 100)
    check_range('dropout', self.dropout, 0, below=1)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> Output:
    """Normalized images [N, H, W, 3] to logits [N, num_classes] float32, or to feature maps.

    Returns:
      The logits. Without a head, to which the 1x1 convolution to 1280 channels belongs, the feature
      maps of the stages, 'stage1' to 'stage7'.

    Raises:
      UserError: for images smaller than the network's stride, or impossible fields.
    """
    self.check()
    check_images(x, self.stride, "use larger images or stem='cifar'")
    dtype = jnp.dtype(self.dtype)
    norm = functools.partial(_norm, train, dtype=dtype)
    small = self.stem == 'cifar'

    stride = 1 if small else 2
    x = nn.Conv(
      scaled_width(32, self.width_multiplier),
      (3, 3),
      (stride, stride),
      [_pads(size, 3, stride, self.padding) for size in x.shape[1:3]],
      use_bias=False,
      kernel_init=layers.he_fan_out,
      dtype=dtype,
      name='stem_conv',
    )(x.astype(dtype))
    x = nn.relu(norm(name='stem_norm')(x))
    maps = {}
    for stage, (row, depth) in enumerate(zip(_STAGES, self.depths, strict=True), start=1):
      stride = 1 if small and stage == 2 else row.stride
      for i in range(depth):
        x = InvertedResidual(
          row,
          scaled_width(row.width, self.width_multiplier),
          stage,
          stride=stride if i == 0 else 1,
          padding=self.padding,
          attention=tuple(p for p in self.attention if p.acts(stage, i)),
          dtype=dtype,
          name=f'stage{stage}_block{i + 1}',
        )(x, train=train)
      x = refine(self, self.attention, 'stage', x, stage, train=train)
      x = maps[f'stage{stage}'] = layers.tap(self, f'stage{stage}', x)
    if self.num_classes is None:
      return maps

    x = layers.conv(_HEAD_WIDTH, 1, dtype=dtype, name='head_conv')(x)
    x = nn.relu(norm(name='head_norm')(x)).astype(jnp.float32).mean((1, 2))
    x = nn.Dropout(self.dropout, deterministic=not train, name='head_dropout')(x)
    return nn.Dense(self.num_classes, kernel_init=_head_init, name='head')(x)
