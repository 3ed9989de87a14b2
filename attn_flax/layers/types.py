"""Types that all parts of the library share."""

from collections.abc import Mapping
from typing import Any

import jax

# What a compute dtype may be given as: `jnp.bfloat16`, `jnp.dtype('float32')`, 'float32'.
Dtype = jax.typing.DTypeLike
# (key, shape, dtype) -> array.
Initializer = jax.nn.initializers.Initializer
# What `model.init` returns: collections such as `params` and `batch_stats`, each a nested mapping
# of arrays (or of their shapes, where nothing was computed).
Variables = Mapping[str, Any]
