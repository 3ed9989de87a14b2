"""Convolution and dense layers with PyTorch's conventions.

The parameters, names and values are those of `flax.linen.Conv` and `Dense`; the computation is
formulated differently where that is faster.

Where the fastest formulation depends on the device, the traced program holds all of them, and the
platform that it is lowered for decides which is compiled (`lax.platform_dependent`). So a program
that is exported for another platform has the formulation of that platform.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from attn_flax.layers.types import Dtype, Initializer

# He et al., "Delving Deep into Rectifiers" (ICCV 2015, https://arxiv.org/abs/1502.01852).
he_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# PyTorch's default for Linear and Conv weights: uniform in +-1 / sqrt(fan_in).
torch_default = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')

# The barrier keeps XLA from fusing the recomputed activation into the transpose that the filter
# gradient needs. It saves time on CPUs from jax 0.12 on and none before; on other devices it has
# not been measured, so it is left out there.
_BARRIER = jax.__version_info__ >= (0, 12)

Pads = Sequence[tuple[int, int]]
# Called like `lax.conv_general_dilated`.
Formulation = Callable[..., jax.Array]


def plain_conv(
  lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Pads, **kwargs: Any
) -> jax.Array:
  """`lax.conv_general_dilated`, with a 1x1 convolution as one matrix product."""
  if _BARRIER:
    lhs = lax.platform_dependent(lhs, cpu=lax.optimization_barrier, default=lambda x: x)
  pointwise = (
    rhs.shape[:2] == (1, 1)
    and kwargs.get('feature_group_count', 1) == 1
    and all(tuple(pad) == (0, 0) for pad in padding)
  )
  if pointwise:
    lhs = lhs[:, :: window_strides[0], :: window_strides[1], :]
    return lax.dot_general(lhs, rhs[0, 0], (((3,), (0,)), ((), ())))
  return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)


def shifted_conv(
  lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Pads, **kwargs: Any
) -> jax.Array:
  """`lax.conv_general_dilated` for large kernels over very few channels, such as CBAM's 7x7.

  On a CPU, the width taps are stacked as channels and contracted in one matrix product, then the
  height taps are added up as shifted rows: the same multiply-adds in less time.

  Raises:
    ValueError: for strides, groups or dilations, which the CPU's formulation does not cover.
  """
  dilations = (*kwargs.get('lhs_dilation', (1, 1)), *kwargs.get('rhs_dilation', (1, 1)))
  if set(window_strides) | set(dilations) | {kwargs.get('feature_group_count', 1)} != {1}:
    raise ValueError('shifted_conv takes no strides, groups or dilations')

  def shifted(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    taps_h, taps_w, inputs, outputs = rhs.shape
    n, _, _, _ = lhs.shape
    lhs = jnp.pad(lhs, ((0, 0), (0, 0), padding[1], (0, 0)))
    width = lhs.shape[2] - taps_w + 1
    columns = jnp.concatenate([lhs[:, :, j : j + width] for j in range(taps_w)], axis=-1)
    kernel = rhs.transpose(1, 2, 0, 3).reshape(taps_w * inputs, taps_h * outputs)
    rows = (columns @ kernel).reshape(n, -1, width, taps_h, outputs)
    rows = jnp.pad(rows, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
    height = rows.shape[1] - taps_h + 1
    return cast(jax.Array, sum(rows[:, i : i + height, :, i] for i in range(taps_h)))

  convolved = functools.partial(
    lax.conv_general_dilated, window_strides=window_strides, padding=padding, **kwargs
  )
  return lax.platform_dependent(lhs, rhs, cpu=shifted, default=convolved)


def depthwise_conv(
  lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Pads, **kwargs: Any
) -> jax.Array:
  """`lax.conv_general_dilated` for one filter per channel, as in MnasNet's blocks.

  On a CPU, shifted copies of the feature map are weighted and added up instead.
  """

  def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    taps_h, taps_w = kernel.shape[:2]
    step_h, step_w = window_strides
    height, width = x.shape[1] - taps_h + 1, x.shape[2] - taps_w + 1
    terms = (
      x[:, i : i + height : step_h, j : j + width : step_w] * kernel[i, j, 0].astype(jnp.float32)
      for i in range(taps_h)
      for j in range(taps_w)
    )
    return cast(jax.Array, sum(terms)).astype(x.dtype)

  convolved = functools.partial(
    lax.conv_general_dilated, window_strides=window_strides, padding=padding, **kwargs
  )
  return lax.platform_dependent(lhs, rhs, cpu=shifted, default=convolved)


def conv(
  features: int,
  kernel: int,
  stride: int = 1,
  *,
  name: str,
  dilation: int = 1,
  groups: int = 1,
  bias: bool = False,
  kernel_init: Initializer = he_fan_out,
  conv_general_dilated: Formulation = plain_conv,
  dtype: Dtype | None = None,
) -> nn.Conv:
  """A square 2-D convolution, padded as PyTorch's `padding=dilation * (kernel - 1) // 2`.

  `padding='SAME'` would pad a strided convolution by (0, 1) where PyTorch pads (1, 1).

  Args:
    features: output channels.
    kernel: height and width of the kernel.
    stride: step in both directions.
    name: name of the submodule.
    dilation: distance between taps; the padding grows with it, so that the size is kept.
    groups: number of channel groups.
    bias: whether there is a bias (initialized to 0).
    kernel_init: initializer of the kernel.
    conv_general_dilated: the formulation that computes it.
    dtype: compute dtype.

  Returns:
    A module that maps [N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), features] for odd
    kernels.
  """
  pad = dilation * (kernel - 1) // 2
  return nn.Conv(
    features,
    (kernel, kernel),
    (stride, stride),
    padding=((pad, pad), (pad, pad)),
    kernel_dilation=(dilation, dilation),
    feature_group_count=groups,
    use_bias=bias,
    kernel_init=kernel_init,
    conv_general_dilated=conv_general_dilated,
    dtype=dtype,
    name=name,
  )


def dense(features: int, *, name: str, bias: bool = True, dtype: Dtype | None = None) -> nn.Dense:
  """A linear layer with PyTorch's default weights and zero bias, [..., C] -> [..., features]."""
  return nn.Dense(features, use_bias=bias, kernel_init=torch_default, dtype=dtype, name=name)
