"""Compiled calls of attention between pixels, to be timed and weighed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.attention import products

# Those of attention-augmented convolution.
HEADS, KEY_DIM, VALUE_DIM = 8, 20, 4


def gradient_call(
  side: int, implementation: str, batch: int, dtype: str = 'float32'
) -> tuple[Callable[[], object], int]:
  """Attention with relative positions, forward and backward, on random maps of side x side.

  Returns:
    The compiled call, and the bytes of its temporaries by the compiler's count.
  """
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), dtype)

  shape = (batch, HEADS, side * side)
  q, k, v = normal(*shape, KEY_DIM), normal(*shape, KEY_DIM), normal(*shape, VALUE_DIM)
  tables = products.Relative(*(normal(2 * side - 1, KEY_DIM) for _ in range(2)))
  weight = normal(*shape, VALUE_DIM)

  def loss(q, k, v, tables):
    y = products.attend(q, k, v, (side, side), relative=tables, implementation=implementation)
    return (y * weight).astype(jnp.float32).sum()

  step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
  compiled = step.lower(q, k, v, tables).compile()
  return lambda: compiled(q, k, v, tables), compiled.memory_analysis().temp_size_in_bytes
