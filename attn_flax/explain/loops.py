"""Many passes of a network, one after the other, in the memory of one.

Where all values are known, the host calls the passes, because XLA's convolutions are slow inside
loops on a CPU (ResNet-20's gradient: a tenth of the speed). Inside a compiled function the passes
are a loop of the program.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

Tree = TypeVar('Tree')  # A pytree of arrays.


def accumulate(add: Callable[..., Tree], carry: Tree, items: jax.Array, *fixed: object) -> Tree:
  """Folds `carry = add(carry, item, *fixed)` over the first axis of `items`.

  Args:
    add: a compiled function.
    carry: a pytree of arrays, which each call replaces.
    items: an array with one item for each call.
    *fixed: pytrees of arrays that all calls share.

  Returns:
    The last `carry`.
  """
  if _traced(carry, items, fixed):
    return lax.scan(lambda carry, item: (add(carry, item, *fixed), None), carry, items)[0]
  for item in items:
    carry = add(carry, item, *fixed)
  return carry


def stack(function: Callable[..., Tree], items: jax.Array, *fixed: object) -> Tree:
  """Stacks the results of `function(item, *fixed)` over the first axis of `items`.

  Args:
    function: a compiled function.
    items: an array with one item for each call.
    *fixed: pytrees of arrays that all calls share.

  Returns:
    What the function returns, with the calls as a new first axis.
  """
  if _traced(items, fixed):
    return lax.map(lambda item: function(item, *fixed), items)
  results = [function(item, *fixed) for item in items]
  return jax.tree.map(lambda *parts: jnp.stack(parts), *results)


def _traced(*trees: object) -> bool:
  return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))
