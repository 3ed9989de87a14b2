"""Types that all parts of the library share."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError, shown

# What a compute dtype may be given as: `jnp.bfloat16`, `jnp.dtype('float32')`, 'float32'.
Dtype = jax.typing.DTypeLike
# (key, shape, dtype) -> array.
Initializer = jax.nn.initializers.Initializer
# What `model.init` returns: collections such as `params` and `batch_stats`, each a nested mapping
# of arrays (or of their shapes, where nothing was computed).
Variables = Mapping[str, Any]


def check_dtype(what: str, dtype: Any) -> None:
  """Raises `UserError` for what is neither None nor a dtype of floating point numbers."""
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
  """Raises `UserError` for what is no map [N, H, W, C] with pixels and channels."""
  if x.ndim != 4 or not all(x.shape[1:]):
    raise UserError(
      f'{what} acts on maps [N, H, W, C] of one pixel and one channel at least, not on {x.shape}'
    )


class Model(Protocol):
  """A Linen module that is called `model(images, train=...)`, of this library or of your own."""

  def init(self, rngs: Any, /, *args: Any, **kwargs: Any) -> Variables:
    """Variables for images of a shape, see `flax.linen.Module.init`."""
    ...

  def apply(self, variables: Variables, /, *args: Any, **kwargs: Any) -> Any:
    """Calls the network with some variables, see `flax.linen.Module.apply`."""
    ...
