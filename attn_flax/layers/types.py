"""Types that all parts of the library share."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

# What a compute dtype may be given as: `jnp.bfloat16`, `jnp.dtype('float32')`, 'float32'.
Dtype = jax.typing.DTypeLike
# (key, shape, dtype) -> array.
Initializer = jax.nn.initializers.Initializer
# What `model.init` returns: collections such as `params` and `batch_stats`, each a nested mapping
# of arrays (or of their shapes, where nothing was computed).
Variables = Mapping[str, Any]


class Model(Protocol):
  """A Linen module that is called `model(images, train=...)`, of this library or of your own."""

  def init(self, rngs: Any, /, *args: Any, **kwargs: Any) -> Variables:
    """Variables for images of a shape, see `flax.linen.Module.init`."""
    ...

  def apply(self, variables: Variables, /, *args: Any, **kwargs: Any) -> Any:
    """Calls the network with some variables, see `flax.linen.Module.apply`."""
    ...
