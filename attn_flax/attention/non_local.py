"""Non-local block.

Wang et al., "Non-local Neural Networks" (CVPR 2018, https://arxiv.org/abs/1711.07971).
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.attention import products
from attn_flax.attention.compose import hidden_channels
from attn_flax.errors import UserError, check_choice, check_counts, check_flags
from attn_flax.layers import marks
from attn_flax.layers.types import Dtype

KERNELS = {
  'embedded': products.softmax,
  'gaussian': products.softmax,
  'dot': products.mean,
  'concatenation': products.relu_mean,
}
SUBSAMPLES = ('before', 'after', 'none')


class NonLocal(nn.Module):
  """`x + norm(W sum over positions of f(x_i, x_j) g(x_j))`; the norm's scale starts at 0.

  theta, phi and g are 1x1 convolutions to C / ratio channels, and f is
    embedded:       softmax over j of theta(x_i) . phi(x_j)
    gaussian:       softmax over j of x_i . x_j
    dot:            theta(x_i) . phi(x_j) / number of positions
    concatenation:  relu(w . [theta(x_i), phi(x_j)]) / number of positions

  Departures from the paper:
    As in the released code, keys and values are max-pooled 2x2 before phi and g (`subsample`; the
    paper pools after them) and the embedded scores are scaled by (C / ratio)^-0.5 (`scale`; the
    paper's are not). The paper's blocks act on video, this one on images.

  Attributes:
    kernel: 'embedded', 'gaussian', 'dot' or 'concatenation'.
    ratio: channels per hidden channel.
    subsample: 'before' (released code) or 'after' (paper) phi and g, or 'none'.
    scale: whether the embedded scores are scaled.
    zero_init: whether the norm's scale starts at 0, so that the block starts as the identity.
    dtype: compute dtype.
  """

  where: ClassVar[str] = 'block'
  default_stages: ClassVar[slice] = slice(1, -1)
  default_every: ClassVar[int] = 2

  kernel: str = 'embedded'
  ratio: int = 2
  subsample: str = 'before'
  scale: bool = True
  zero_init: bool = True
  dtype: Dtype | None = None

  def __post_init__(self) -> None:
    check_counts(ratio=self.ratio)
    check_flags(scale=self.scale, zero_init=self.zero_init)
    layers.check_dtype('dtype', self.dtype)
    check_choice('kernel', self.kernel, KERNELS)
    check_choice('subsample', self.subsample, SUBSAMPLES)
    super().__post_init__()

  @property
  def starts_as_identity(self) -> bool:
    """Whether the freshly initialized module returns its input."""
    return self.zero_init

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, queries: jax.Array | None = None
  ) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]; with `queries` their `weights` instead."""
    layers.check_map('non-local attention', x)
    n, height, width, channels = x.shape
    if self.subsample != 'none' and min(height, width) < 2:
      raise UserError(
        f"non_local feature maps of {height}x{width} cannot be pooled 2x2; take subsample='none' "
        'or earlier stages'
      )
    hidden = hidden_channels(channels, self.ratio)
    normal = nn.initializers.normal(0.01)

    def embed(y: jax.Array, name: str) -> jax.Array:
      return layers.conv(hidden, 1, bias=True, kernel_init=normal, dtype=self.dtype, name=name)(y)

    def halve(y: jax.Array, when: str) -> jax.Array:
      return layers.max_pool(y, 2, 2, 0) if self.subsample == when else y

    def flat(y: jax.Array) -> jax.Array:
      return y.reshape(n, 1, -1, y.shape[-1])

    source = halve(x, 'before')
    if self.kernel == 'gaussian':
      q, k = flat(x), flat(halve(source, 'after'))
    else:
      q, k = flat(embed(x, 'theta')), flat(halve(embed(source, 'phi'), 'after'))
    if self.kernel == 'embedded' and self.scale:
      q = q * hidden**-0.5
    if self.kernel == 'concatenation':
      q, k = self._concatenation(q, k)
    normalize = KERNELS[self.kernel]
    if queries is not None:
      return products.weights(q, k, queries, (height, width), normalize=normalize)

    g = flat(halve(embed(source, 'g'), 'after'))
    attend: Callable[..., jax.Array] = functools.partial(
      products.attend, grid=(height, width), normalize=normalize
    )
    if self.kernel == 'concatenation':
      # The product in f's definition is as long as both vectors together.
      pairs = q.shape[2] * k.shape[2] * n
      attend = marks.counted_as(attend, attention=pairs * (2 * hidden + hidden), relu=pairs)
    y = attend(q, k, g)
    y = y.reshape(n, height, width, hidden)
    y = layers.conv(channels, 1, bias=True, kernel_init=normal, dtype=self.dtype, name='output')(y)
    init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
    return x + layers.BatchNorm(train, scale_init=init, dtype=self.dtype, name='norm')(y)

  def _concatenation(self, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes w . [theta, phi], a sum a + b, as the product [a, 1] . [1, b]."""
    weight = self.param('concatenation', nn.initializers.normal(0.01), (2, q.shape[-1]))
    a, b = (
      (y * w.astype(y.dtype)).sum(-1, keepdims=True) for y, w in zip((q, k), weight, strict=True)
    )
    return (
      jnp.concatenate([a, jnp.ones_like(a)], axis=-1),
      jnp.concatenate([jnp.ones_like(b), b], axis=-1),
    )

  def weights(self, x: jax.Array, queries: jax.Array) -> jax.Array:
    """Attention weights [N, 1, Q, keys] float32 of the queries [Q], counted row by row."""
    return self(x, queries=queries)
