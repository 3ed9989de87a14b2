"""Batch normalization with PyTorch's conventions and a closed-form gradient."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from attn_flax.layers.types import Dtype, Initializer


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _batch_normalize(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalizes `x` [N, ..., C] with its own mean and variance [C]; returns all three."""
  return _batch_normalize_fwd(x, scale, bias, epsilon)[0]


def _batch_normalize_fwd(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
  axes = tuple(range(x.ndim - 1))
  x32 = x.astype(jnp.float32)
  # One pass over the data: the variance is E[d^2] - E[d]^2 of the differences d from a pivot, the
  # first example's mean. One example at a distance D from the batch's mean adds at least D^2 / N to
  # the variance, so the pivot is at most sqrt(N) standard deviations from that mean, and the
  # subtraction cancels at most a factor N of the precision, whatever the data.
  pivot = x32[0].mean(axes[:-1])
  shifted = x32 - pivot
  offset = shifted.mean(axes)
  var = jnp.maximum(jnp.square(shifted).mean(axes) - jnp.square(offset), 0.0)
  inverse = lax.rsqrt(var + epsilon)
  y = ((shifted - offset) * (inverse * scale) + bias).astype(x.dtype)
  return (y, pivot + offset, var), (x, scale, pivot, offset, inverse)


def _batch_normalize_bwd(
  epsilon: float, residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The gradient in closed form; none flows from the statistics, which only update averages."""
  del epsilon
  x, scale, pivot, offset, inverse = residuals
  dy = cotangents[0].astype(jnp.float32)
  axes = tuple(range(x.ndim - 1))
  normalized = (x.astype(jnp.float32) - pivot - offset) * inverse
  dbias = dy.sum(axes)
  dscale = (dy * normalized).sum(axes)
  count = x.size // x.shape[-1]
  dx = (scale * inverse) * (dy - dbias / count - normalized * (dscale / count))
  return dx.astype(x.dtype), dscale, dbias


_batch_normalize.defvjp(_batch_normalize_fwd, _batch_normalize_bwd)


class BatchNorm(nn.Module):
  """Batch normalization over all axes but the last, as `torch.nn.BatchNorm1d` and `2d`.

  Ioffe and Szegedy, "Batch Normalization" (ICML 2015, https://arxiv.org/abs/1502.03167).
  Variables are those of `flax.linen.BatchNorm`: params `scale`, `bias`, batch_stats `mean`, `var`,
  all [C] float32. As in PyTorch, and unlike Flax, the running variance is the unbiased one.
  Forward-mode differentiation is not available in training: the gradient has a rule of its own.

  Attributes:
    train: whether to normalize with the batch's statistics and update the running ones.
    momentum: share of the running value that each step keeps; PyTorch's momentum 0.1 is 0.9 here.
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
    """Normalizes `x` [..., C]; in training it also updates the running statistics."""
    channels = (x.shape[-1],)
    x = x.astype(self.dtype or x.dtype)
    scale = self.param('scale', self.scale_init, channels, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
    var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
    if not self.train:
      inverse = lax.rsqrt(var.value + self.epsilon) * scale
      return (x.astype(jnp.float32) * inverse + (bias - mean.value * inverse)).astype(x.dtype)
    y, batch_mean, batch_var = _batch_normalize(x, scale, bias, self.epsilon)
    if not self.is_initializing():
      count = x.size // x.shape[-1]
      batch_var = batch_var * (count / max(count - 1, 1))
      for running, batch in ((mean, batch_mean), (var, batch_var)):
        running.value = self.momentum * running.value + (1 - self.momentum) * batch
    return y
