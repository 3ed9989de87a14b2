"""Batch normalization with PyTorch's conventions and a closed-form gradient."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from attn_flax.layers.types import Dtype, Initializer


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _batch_normalize(x, scale, bias, pivot, epsilon):
  """Normalizes `x` [..., C] with its own statistics; returns it with mean and variance [C]."""
  return _batch_normalize_fwd(x, scale, bias, pivot, epsilon)[0]


def _batch_normalize_fwd(x, scale, bias, pivot, epsilon):
  axes = tuple(range(x.ndim - 1))
  # One pass over the data; the pivot (the running mean) keeps E[x^2] - E[x]^2 from cancelling.
  shifted = x.astype(jnp.float32) - pivot
  mean = shifted.mean(axes)
  var = jnp.maximum(jnp.square(shifted).mean(axes) - jnp.square(mean), 0.0)
  inverse = lax.rsqrt(var + epsilon)
  y = ((shifted - mean) * (inverse * scale) + bias).astype(x.dtype)
  mean = mean + pivot
  return (y, mean, var), (x, scale, mean, inverse)


def _batch_normalize_bwd(epsilon, residuals, cotangents):
  """The closed form, which stores `x` alone; the statistics returned feed running averages only."""
  del epsilon
  x, scale, mean, inverse = residuals
  dy = cotangents[0].astype(jnp.float32)
  axes = tuple(range(x.ndim - 1))
  normalized = (x.astype(jnp.float32) - mean) * inverse
  dbias = dy.sum(axes)
  dscale = (dy * normalized).sum(axes)
  count = x.size // x.shape[-1]
  dx = (scale * inverse) * (dy - dbias / count - normalized * (dscale / count))
  return dx.astype(x.dtype), dscale, dbias, jnp.zeros_like(mean)


_batch_normalize.defvjp(_batch_normalize_fwd, _batch_normalize_bwd)


class BatchNorm(nn.Module):
  """Batch normalization over all axes but the last, as `torch.nn.BatchNorm1d` and `2d`.

  Ioffe and Szegedy, "Batch Normalization" (ICML 2015, https://arxiv.org/abs/1502.03167).
  Variables are those of `flax.linen.BatchNorm`: params `scale`, `bias`, batch_stats `mean`, `var`,
  all [C] float32. As in PyTorch, and unlike Flax, the running variance is the unbiased one.
  Forward-mode differentiation is not available in training (the gradient has a closed form).

  Attributes:
    train: normalize with the batch's statistics and update the running ones.
    momentum: share of the running value kept at each step; PyTorch's momentum 0.1 is 0.9 here.
    epsilon: added to the variance.
    scale_init: initializer of the scale (gamma).
    dtype: dtype of the output; statistics are always float32.
  """

  train: bool
  momentum: float = 0.9
  epsilon: float = 1e-5
  scale_init: Initializer = nn.initializers.ones
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalizes `x` [..., C]."""
    channels = (x.shape[-1],)
    x = x.astype(self.dtype or x.dtype)
    scale = self.param('scale', self.scale_init, channels, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
    var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
    if not self.train:
      inverse = lax.rsqrt(var.value + self.epsilon) * scale
      return (x.astype(jnp.float32) * inverse + (bias - mean.value * inverse)).astype(x.dtype)
    y, batch_mean, batch_var = _batch_normalize(
      x, scale, bias, lax.stop_gradient(mean.value), self.epsilon
    )
    if not self.is_initializing():
      count = x.size // x.shape[-1]
      batch_var = batch_var * (count / max(count - 1, 1))
      for running, batch in ((mean, batch_mean), (var, batch_var)):
        running.value = self.momentum * running.value + (1 - self.momentum) * batch
    return y
