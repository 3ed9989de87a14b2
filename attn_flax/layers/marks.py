"""Marks in a network's program that explanations and costs read; they change no value."""

from collections.abc import Callable

import flax.linen as nn
import jax


def tap(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
  """Names an activation, so that explanations can read it and differentiate at it.

  Records `x` under `name` where the collection `intermediates` is mutable, and adds the variable
  `name` of the collection `perturbations` where one is given. Costs nothing otherwise.

  Args:
    module: the module that computes the activation, inside a compact method.
    name: 'stage1', 'stage2' and so on for the feature maps of the stages.
    x: the activation.

  Returns:
    `x`, plus the variable where it is given.
  """
  module.sow('intermediates', name, x)
  if module.has_variable('perturbations', name):
    x = x + module.get_variable('perturbations', name)
  return x


# The name scopes in which a mechanism multiplies activations with activations, and queries with
# vectors of relative positions.
ATTENTION_SCOPE = 'attention_products'
RELATIVE_SCOPE = 'relative_products'

_COUNTED = 'counted_as'


def counted_as(function: Callable[..., jax.Array], **operations: int) -> Callable[..., jax.Array]:
  """Sets what operations a function is counted as, in place of those of its program.

  For functions that compute an equation in another way: their cost is that of the equation. The
  function is compiled as it is; its name in the traced program carries the counts.

  Args:
    function: arrays -> array.
    **operations: how many of each kind, see `costs.count_operations`; kinds that are left out
      count 0.

  Returns:
    The function, compiled under that name.
  """

  def named(*args: jax.Array) -> jax.Array:
    return function(*args)

  # The name is all that the traced program keeps of a function, and what `operations_of` reads.
  named.__name__ = '__'.join((_COUNTED, *(f'{kind}_{n}' for kind, n in operations.items())))
  return jax.jit(named)


def operations_of(name: str) -> dict[str, int] | None:
  """The operations that `counted_as` wrote into a function's name; None for any other name."""
  prefix, *counts = name.split('__')
  if prefix != _COUNTED:
    return None
  pairs = (count.rsplit('_', 1) for count in counts)
  return {kind: int(n) for kind, n in pairs}
