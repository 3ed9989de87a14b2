"""Layers with PyTorch's conventions, shared by every module of the library."""

from attn_flax.layers.convolution import (
  conv,
  dense,
  depthwise_conv,
  he_fan_out,
  shifted_conv,
  torch_default,
)
from attn_flax.layers.marks import tap
from attn_flax.layers.norm import BatchNorm
from attn_flax.layers.pool import halve, interpolate, largest, max_pool
from attn_flax.layers.types import Dtype, Initializer, Variables, check_dtype, check_map

__all__ = [
  'BatchNorm',
  'Dtype',
  'Initializer',
  'Variables',
  'check_dtype',
  'check_map',
  'conv',
  'dense',
  'depthwise_conv',
  'halve',
  'he_fan_out',
  'interpolate',
  'largest',
  'max_pool',
  'shifted_conv',
  'tap',
  'torch_default',
]
