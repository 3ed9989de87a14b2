"""Convolution, batch norm and dense layers with PyTorch's conventions, shared by every module.

The parameters, names and values are those of `flax.linen.Conv`, `Dense` and `BatchNorm`; only
the formulation differs, where a faster one was measured (CHANGELOG, benchmarks/results).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# He et al., "Delving Deep into Rectifiers" (ICCV 2015, https://arxiv.org/abs/1502.01852).
he_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# PyTorch's default for Linear and Conv weights: uniform in +-1 / sqrt(fan_in).
torch_default = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')

# The barrier keeps XLA from fusing the recomputed activation into the transpose that the filter
# gradient needs. It pays on CPU from jax 0.12 on and does nothing before; on other devices it has
# not been measured, so it stays out.
_BARRIER = jax.__version_info__ >= (0, 12)


def _on_cpu() -> bool:
  return jax.default_backend() == 'cpu'


def _conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs):
  """`lax.conv_general_dilated`, with a 1x1 convolution as one matrix product."""
  if _BARRIER and _on_cpu():
    lhs = lax.optimization_barrier(lhs)
  pointwise = (
    rhs.shape[:2] == (1, 1)
    and kwargs.get('feature_group_count', 1) == 1
    and all(tuple(pad) == (0, 0) for pad in padding)
  )
  if pointwise:
    lhs = lhs[:, :: window_strides[0], :: window_strides[1], :]
    return lax.dot_general(lhs, rhs[0, 0], (((3,), (0,)), ((), ())))
  return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)


def shifted_conv(lhs, rhs, window_strides, padding, **kwargs):
  """`lax.conv_general_dilated` for large kernels over very few channels, such as CBAM's 7x7.

  The width taps are stacked as channels and contracted in one matrix product, then the height
  taps are added up as shifted rows: the same multiply-adds, in less time on a CPU.

  Raises:
    ValueError: for strides, groups or dilations, which this form does not cover.
  """
  if not _on_cpu():
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)
  dilations = (*kwargs.get('lhs_dilation', (1, 1)), *kwargs.get('rhs_dilation', (1, 1)))
  if set(window_strides) | set(dilations) | {kwargs.get('feature_group_count', 1)} != {1}:
    raise ValueError('shifted_conv takes no strides, groups or dilations')
  taps_h, taps_w, inputs, outputs = rhs.shape
  n, _, _, _ = lhs.shape
  lhs = jnp.pad(lhs, ((0, 0), (0, 0), padding[1], (0, 0)))
  width = lhs.shape[2] - taps_w + 1
  columns = jnp.concatenate([lhs[:, :, j : j + width] for j in range(taps_w)], axis=-1)
  kernel = rhs.transpose(1, 2, 0, 3).reshape(taps_w * inputs, taps_h * outputs)
  rows = (columns @ kernel).reshape(n, -1, width, taps_h, outputs)
  rows = jnp.pad(rows, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
  height = rows.shape[1] - taps_h + 1
  return sum(rows[:, i : i + height, :, i] for i in range(taps_h))


def conv(
  features: int,
  kernel: int,
  stride: int = 1,
  *,
  name: str,
  dilation: int = 1,
  groups: int = 1,
  bias: bool = False,
  kernel_init: Any = he_fan_out,
  conv_general_dilated: Any = _conv_general_dilated,
  dtype: Any = None,
) -> nn.Conv:
  """A square 2-D convolution, padded as PyTorch's `padding=dilation * (kernel - 1) // 2`.

  `padding='SAME'` would pad a strided convolution by (0, 1) where PyTorch pads (1, 1).

  Args:
    features: output channels.
    kernel: height and width of the kernel.
    stride: step in both directions.
    name: name of the submodule.
    dilation: distance between taps; the padding grows with it, so the map keeps its size.
    groups: number of channel groups.
    bias: whether there is a bias (initialised to 0).
    kernel_init: initialiser; He fan-out normal unless told.
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


def dense(features: int, *, name: str, bias: bool = True, dtype: Any = None) -> nn.Dense:
  """A linear layer with PyTorch's default weights and zero bias, [..., C] -> [..., features]."""
  return nn.Dense(features, use_bias=bias, kernel_init=torch_default, dtype=dtype, name=name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _batch_normalise(x, scale, bias, pivot, epsilon):
  """Normalises `x` [..., C] with its own statistics; returns it with mean and variance [C]."""
  return _batch_normalise_fwd(x, scale, bias, pivot, epsilon)[0]


def _batch_normalise_fwd(x, scale, bias, pivot, epsilon):
  axes = tuple(range(x.ndim - 1))
  # One pass over the data; the pivot (the running mean) keeps E[x^2] - E[x]^2 from cancelling.
  shifted = x.astype(jnp.float32) - pivot
  mean = shifted.mean(axes)
  var = jnp.maximum(jnp.square(shifted).mean(axes) - jnp.square(mean), 0.0)
  inverse = lax.rsqrt(var + epsilon)
  y = ((shifted - mean) * (inverse * scale) + bias).astype(x.dtype)
  mean = mean + pivot
  return (y, mean, var), (x, scale, mean, inverse)


def _batch_normalise_bwd(epsilon, residuals, cotangents):
  """The closed form, which stores `x` alone; the statistics returned feed running averages only."""
  del epsilon
  x, scale, mean, inverse = residuals
  dy = cotangents[0].astype(jnp.float32)
  axes = tuple(range(x.ndim - 1))
  normalised = (x.astype(jnp.float32) - mean) * inverse
  dbias = dy.sum(axes)
  dscale = (dy * normalised).sum(axes)
  count = x.size // x.shape[-1]
  dx = (scale * inverse) * (dy - dbias / count - normalised * (dscale / count))
  return dx.astype(x.dtype), dscale, dbias, jnp.zeros_like(mean)


_batch_normalise.defvjp(_batch_normalise_fwd, _batch_normalise_bwd)


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last, as `torch.nn.BatchNorm1d` and `2d`.

  Ioffe and Szegedy, "Batch Normalization" (ICML 2015, https://arxiv.org/abs/1502.03167).
  Variables are those of `flax.linen.BatchNorm`: params `scale`, `bias`, batch_stats `mean`, `var`,
  all [C] float32. As in PyTorch, and unlike Flax, the running variance is the unbiased one.
  Forward-mode differentiation is not available in training (the gradient has a closed form).

  Attributes:
    train: normalise with the batch's statistics and update the running ones.
    momentum: share of the running value kept at each step; PyTorch's momentum 0.1 is 0.9 here.
    epsilon: added to the variance.
    scale_init: initialiser of the scale (gamma).
    dtype: dtype of the output; statistics are always float32.
  """

  train: bool
  momentum: float = 0.9
  epsilon: float = 1e-5
  scale_init: Any = nn.initializers.ones
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises `x` [..., C]."""
    channels = (x.shape[-1],)
    x = x.astype(self.dtype or x.dtype)
    scale = self.param('scale', self.scale_init, channels, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
    var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
    if not self.train:
      inverse = lax.rsqrt(var.value + self.epsilon) * scale
      return (x.astype(jnp.float32) * inverse + (bias - mean.value * inverse)).astype(x.dtype)
    y, batch_mean, batch_var = _batch_normalise(
      x, scale, bias, lax.stop_gradient(mean.value), self.epsilon
    )
    if not self.is_initializing():
      count = x.size // x.shape[-1]
      batch_var = batch_var * (count / max(count - 1, 1))
      for running, batch in ((mean, batch_mean), (var, batch_var)):
        running.value = self.momentum * running.value + (1 - self.momentum) * batch
    return y


def max_pool(
  x: jax.Array, window: int, stride: int, padding: int, *, round_up: bool = False
) -> jax.Array:
  """PyTorch's `MaxPool2d` on [N, H, W, C]: pads with -inf; rounds down, or up as its ceil_mode."""
  ends = [padding, padding]
  if round_up:
    for axis, size in enumerate(x.shape[1:3]):
      outputs = -(-(size + 2 * padding - window) // stride) + 1
      ends[axis] = (outputs - 1) * stride + window - size - padding
  pads = ((padding, ends[0]), (padding, ends[1]))
  return nn.max_pool(x, (window, window), (stride, stride), pads)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(x: jax.Array, axis: int) -> jax.Array:
  """The maximum along an axis; entries that equal it, to within rounding, share its gradient.

  Wherever XLA computes `x` anew for the gradient, perhaps with other roundings, `jnp.max` may find
  no entry that equals the maximum; it then divides by their number, 0, and returns NaN.
  """
  return x.max(axis)


@largest.defjvp
def _largest_jvp(axis, primals, tangents):
  (x,), (dx,) = primals, tangents
  y = largest(x, axis)
  near = y - jnp.finfo(x.dtype).eps * jnp.abs(y)
  equal = x >= jnp.expand_dims(near, axis)
  total = jnp.where(equal, dx, 0).sum(axis)
  return y, (total / jnp.maximum(equal.sum(axis), 1)).astype(y.dtype)


def halve(x: jax.Array) -> jax.Array:
  """2x2 average pool of stride 2, [N, H, W, C] -> [N, ceil(H / 2), ceil(W / 2), C].

  As PyTorch's `AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)`: an odd last row or column
  is averaged over the pixels that are there.
  """
  odd = ((0, x.shape[1] % 2), (0, x.shape[2] % 2))
  return nn.avg_pool(x, (2, 2), (2, 2), odd, count_include_pad=False)


def interpolate(x: jax.Array, axis: int, length: int) -> jax.Array:
  """Linear interpolation to `length` along one axis, the values standing in the middles of pixels.

  As `jax.image.resize` has it, but without a matrix product, which would count as a layer's, and
  exact where neighbours are equal: rounding would put flat parts of a map into some order.
  """
  size = x.shape[axis]
  if size == length:
    return x
  places = ((jnp.arange(length) + 0.5) * (size / length) - 0.5).clip(0, size - 1)
  low = places.astype(jnp.int32)
  share = jnp.expand_dims(places - low, [a for a in range(x.ndim) if a != axis]).astype(x.dtype)
  start, end = x.take(low, axis), x.take(jnp.minimum(low + 1, size - 1), axis)
  return start + share * (end - start)


def tap(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
  """Names an activation, so that explanations can read it and differentiate at it.

  Records `x` under `name` where the collection `intermediates` is mutable, and adds the variable
  `name` of the collection `perturbations` where one is given. Costs nothing otherwise.
  """
  module.sow('intermediates', name, x)
  if module.has_variable('perturbations', name):
    x = x + module.get_variable('perturbations', name)
  return x
