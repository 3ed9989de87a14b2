"""Many passes of a network, one after the other, in the memory of one."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def accumulate(add: Callable[..., Any], carry: Any, items: jax.Array, *fixed: Any) -> Any:
  """Folds `carry = add(carry, item, *fixed)` over the first axis of `items`.

  The calls are made from the host where all values are known, because XLA has slow convolutions
  inside loops on a CPU (ResNet-20's gradient: a tenth of the speed); inside a compiled function
  they are a scan.

  Args:
    add: a compiled function.
    carry: what it changes, a pytree of arrays.
    items: one for each call.
    *fixed: pytrees of arrays that all calls share.
  """
  leaves = jax.tree.leaves((carry, items, fixed))
  if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
    return lax.scan(lambda carry, item: (add(carry, item, *fixed), None), carry, items)[0]
  for item in items:
    carry = add(carry, item, *fixed)
  return carry
