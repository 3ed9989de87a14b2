"""Exact costs of a network: parameters, and multiply-adds read off its traced program."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core as jax_core

# The name scope in which a mechanism multiplies activations with activations.
ATTENTION_SCOPE = 'attention_products'


class Macs(NamedTuple):
  """Multiply-adds of one image.

  Attributes:
    layers: those of convolutions and dense layers, biases not counted.
    attention: those of matrix products between activations, such as queries with keys.
  """

  layers: int
  attention: int


def abstract_variables(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Any]:
  """Shapes and dtypes of a model's variables, without computing anything.

  Args:
    model: a network called `model(images, train=...)`.
    input_shape: (H, W, C).
  """
  images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
  return jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), images)


def count_params(variables: Mapping[str, Any]) -> int:
  """Number of trainable parameters in `variables['params']` (or in a parameter tree itself)."""
  params = variables.get('params', variables)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
  """Multiply-adds of one image of shape (H, W, C): convolutions, dense layers, attention.

  Pooling, norms, activations and biases are not counted, as in the tables of the SE, CBAM and BAM
  papers. `macs` tells layers and attention products apart.
  """
  return sum(macs(model, input_shape))


def macs(model: nn.Module, input_shape: tuple[int, ...]) -> Macs:
  """Multiply-adds of one image of shape (H, W, C), by kind."""
  images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
  variables = abstract_variables(model, input_shape)
  program = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, images)
  return Macs(*_count(program.jaxpr, inside=False))


def _count(jaxpr: Any, inside: bool) -> tuple[int, int]:
  """(layers, attention) multiply-adds of a program and of the programs that it calls."""
  total = [0, 0]
  for eqn in jaxpr.eqns:
    attends = inside or ATTENTION_SCOPE in str(eqn.source_info.name_stack)
    if eqn.primitive.name == 'conv_general_dilated':
      total[attends] += _conv_macs(eqn)
    elif eqn.primitive.name == 'dot_general':
      total[attends] += _dot_macs(eqn)
    elif eqn.primitive.name == 'while':
      raise ValueError('the multiply-adds of a loop of unknown length cannot be counted')
    else:
      times = eqn.params.get('length', 1) if eqn.primitive.name == 'scan' else 1
      branches = [_count(inner, attends) for inner in _inner_programs(eqn)]
      if eqn.primitive.name == 'cond':
        branches = [max(branches, key=sum)]
      for counted in branches:
        total = [t + times * c for t, c in zip(total, counted, strict=True)]
  return total[0], total[1]


def _inner_programs(eqn: Any) -> list[Any]:
  """The programs among an equation's parameters; a custom gradient's forward program only."""
  found = []
  for value in eqn.params.values():
    for item in value if isinstance(value, list | tuple) else (value,):
      if isinstance(item, jax_core.ClosedJaxpr):
        found.append(item.jaxpr)
      elif isinstance(item, jax_core.Jaxpr):
        found.append(item)
  return found


def _conv_macs(eqn: Any) -> int:
  kernel = eqn.invars[1].aval.shape
  features = kernel[eqn.params['dimension_numbers'].rhs_spec[0]]
  return math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // features


def _dot_macs(eqn: Any) -> int:
  (contracted, _), _ = eqn.params['dimension_numbers']
  lhs = eqn.invars[0].aval.shape
  return math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[axis] for axis in contracted)
