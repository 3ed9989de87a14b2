"""Layers with PyTorch's conventions, shared by every module of the library."""

from attn_flax.layers.convolution import (
  BatchNorm,
  conv,
  dense,
  halve,
  he_fan_out,
  interpolate,
  largest,
  max_pool,
  shifted_conv,
  tap,
  torch_default,
)

__all__ = [
  'BatchNorm',
  'conv',
  'dense',
  'halve',
  'he_fan_out',
  'interpolate',
  'largest',
  'max_pool',
  'shifted_conv',
  'tap',
  'torch_default',
]
