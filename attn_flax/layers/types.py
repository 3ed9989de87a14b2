"""Types that all parts of the library share."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError, shown

# A compute dtype in any form: `jnp.bfloat16`, `jnp.dtype('float32')`, 'float32'.
Dtype = jax.typing.DTypeLike
# (key, shape, dtype) -> array.
Initializer = jax.nn.initializers.Initializer
# What `model.init` returns: collections such as `params` and `batch_stats`, each a nested mapping
# of arrays (or of their shapes, where nothing was computed).
Variables = Mapping[str, Any]


def check_dtype(what: str, dtype: Any) -> None:
  """Raises `UserError` unless `dtype` is None or a floating-point dtype that JAX has enabled."""
  try:
    if dtype is None:
      return
    found = jnp.dtype(dtype)
    # Without `jax_enable_x64`, 64 bits would be cut off.
    if jnp.issubdtype(found, jnp.floating) and jax.dtypes.canonicalize_dtype(found) == found:
      return
  except (TypeError, ValueError):
    pass
  raise UserError(f'{what}={shown(dtype)} is impossible; choose float32, bfloat16 or None')


def check_map(what: str, x: jax.Array) -> None:
  """Raises `UserError` unless `x` is a feature map [N, H, W, C] with pixels and channels."""
  if x.ndim != 4 or not all(x.shape[1:]):
    raise UserError(
      f'{what} acts on feature maps [N, H, W, C] with at least one pixel and one channel, not on '
      f'shape {x.shape}; give such a feature map'
    )


class Model(Protocol):
  """A Linen module, of this library or your own, that is called `model(images, train=...)`."""

  def init(self, rngs: Any, /, *args: Any, **kwargs: Any) -> Variables:
    """Makes the variables for images of a shape, see `flax.linen.Module.init`."""
    ...

  def apply(self, variables: Variables, /, *args: Any, **kwargs: Any) -> Any:
    """Calls the network with its variables, see `flax.linen.Module.apply`."""
    ...
