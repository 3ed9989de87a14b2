"""Mechanisms of a user's own, one that refines a feature map and one in place of a convolution."""

import flax.linen as nn


class OwnGate(nn.Module):
  """A user's own mechanism: a learned temperature on the channels' means."""

  temperature: float = 1.0

  @nn.compact
  def __call__(self, x, *, train):
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    return x * nn.sigmoid(x.mean((1, 2), keepdims=True) * scale / self.temperature)


class Pooled(nn.Module):
  """A mechanism that replaces a 3x3 convolution."""

  where = 'conv'

  features: int
  stride: int = 1

  @nn.compact
  def __call__(self, x):
    x = nn.avg_pool(x, (1, 1), (self.stride,) * 2)
    return nn.Dense(self.features, name='mix')(x)
