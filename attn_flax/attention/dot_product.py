"""A gate of dot-product attention between channels.

Vaswani et al., "Attention Is All You Need" (NeurIPS 2017, https://arxiv.org/abs/1706.03762),
section 3.2.1: `softmax(q k^T / sqrt(d)) v`. Applying it to channels is not in the paper.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.attention.pools import describe_channels
from attn_flax.errors import check_counts
from attn_flax.layers.marks import ATTENTION_SCOPE
from attn_flax.layers.types import Dtype


class DotProductChannel(nn.Module):
  """Channel gate: self-attention between channels, `softmax(q k^T / sqrt(d)) v`.

  A channel is described as in `AdditiveChannel`. Its value is one number, and so is its logit, the
  weighted sum of the values.

  Attributes:
    hidden: length d of the queries and keys.
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
    channels = layers.dense(self.hidden, dtype=self.dtype, name='embed')(describe_channels(x))
    own = self.param('channel', nn.initializers.normal(1.0), (x.shape[-1], self.hidden))
    channels = channels + own.astype(channels.dtype)

    def project(features: int, name: str) -> jax.Array:
      return layers.dense(features, bias=False, dtype=self.dtype, name=name)(channels)

    query = project(self.hidden, 'query') * self.hidden**-0.5
    with jax.named_scope(ATTENTION_SCOPE):
      scores = jnp.einsum(
        'ncd,ned->nce', query, project(self.hidden, 'key'), preferred_element_type=jnp.float32
      )
    value = project(1, 'value')
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    with jax.named_scope(ATTENTION_SCOPE):
      logits = jnp.einsum('nce,nef->ncf', weights, value)
    return logits[:, None, None, :, 0]
