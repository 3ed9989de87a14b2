"""Marks in a network's program, which explanations and costs read; they compute nothing."""

import contextvars

import flax.linen as nn
import jax


def tap(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
  """Names an activation, so that explanations can read it and differentiate at it.

  Records `x` under `name` where the collection `intermediates` is mutable, and adds the variable
  `name` of the collection `perturbations` where one is given. Costs nothing otherwise.
  """
  module.sow('intermediates', name, x)
  if module.has_variable('perturbations', name):
    x = x + module.get_variable('perturbations', name)
  return x


# The name scopes in which a mechanism multiplies activations with activations, and inside of it
# queries with vectors of relative positions.
ATTENTION_SCOPE = 'attention_products'


RELATIVE_SCOPE = 'relative_products'


# Whether a program is traced to be counted, not to be run.
COUNTING: contextvars.ContextVar[bool] = contextvars.ContextVar('COUNTING', default=False)
