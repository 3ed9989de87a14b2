"""Gates of additive attention, over positions and over channels.

Bahdanau, Cho, Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate"
(ICLR 2015, https://arxiv.org/abs/1409.0473): the score of a key is `v . tanh(W query + U key)`.
There the query is the state of a decoder; here it is the mean pixel, or the mean channel.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.attention.compose import compose, hidden_channels
from attn_flax.attention.pools import describe_channels
from attn_flax.errors import check_counts
from attn_flax.layers.types import Dtype


class AdditiveSpatial(nn.Module):
  """Spatial gate: each pixel's additive score against the mean pixel.

  Attributes:
    ratio: channels per hidden unit.
    dtype: compute dtype.
  """

  ratio: int = 16
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_counts(ratio=self.ratio)
    layers.check_dtype('dtype', self.dtype)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> logits [N, H, W, 1]."""
    del train
    hidden = hidden_channels(x.shape[-1], self.ratio)
    keys = layers.dense(hidden, dtype=self.dtype, name='key')(x)
    query = layers.dense(hidden, bias=False, dtype=self.dtype, name='query')(x.mean((1, 2)))
    score = jnp.tanh(keys + query[:, None, None])
    return layers.dense(1, dtype=self.dtype, name='score')(score)


class AdditiveChannel(nn.Module):
  """Channel gate: each channel's additive score against the mean channel.

  A channel is described by its mean and its maximum, and embedded by weights that all channels
  share, plus one learned vector of its own.

  Attributes:
    hidden: length of the embedding.
    dtype: compute dtype.
  """

  hidden: int = 8
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_counts(hidden=self.hidden)
    layers.check_dtype('dtype', self.dtype)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> logits [N, 1, 1, C]."""
    del train
    channels = describe_channels(x)
    keys = layers.dense(self.hidden, dtype=self.dtype, name='key')(channels)
    own = self.param('channel', nn.initializers.normal(1.0), (x.shape[-1], self.hidden))
    query = layers.dense(self.hidden, bias=False, dtype=self.dtype, name='query')(channels.mean(1))
    score = jnp.tanh(keys + own.astype(keys.dtype) + query[:, None])
    return layers.dense(1, dtype=self.dtype, name='score')(score)[:, None, None, :, 0]


class Additive(nn.Module):
  """Additive attention over positions: `x * sigmoid(v . tanh(U x + W mean(x)))`.

  Departures from the paper:
    The paper's query is the state of its decoder, and a softmax makes the positions compete. Here
    the query is the mean of the feature map, and each position has its own sigmoid gate.

  Attributes:
    ratio: channels per hidden unit.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'branch'
  default_stages: ClassVar[slice] = slice(None)

  ratio: int = 16
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    self._spatial(parent=None)
    super().__post_init__()

  def _spatial(self, **place: Any) -> AdditiveSpatial:
    return AdditiveSpatial(self.ratio, self.dtype, **place)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    return compose(self, x, spatial=self._spatial(name='spatial'), train=train)
