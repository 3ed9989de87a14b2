"""Exact costs of a network: parameters, and multiply-adds counted in its traced program."""

import collections
import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jax_core

from attn_flax.errors import UserError, check_tuple, check_type, shown
from attn_flax.layers.marks import ATTENTION_SCOPE, RELATIVE_SCOPE, operations_of
from attn_flax.layers.types import Model, Variables


class Macs(NamedTuple):
  """Multiply-adds of one image.

  Attributes:
    layers: those of convolutions and dense layers; biases are not counted.
    attention: those of matrix products between activations, such as queries with keys.
  """

  layers: int
  attention: int


def abstract_variables(model: Model, input_shape: tuple[int, ...]) -> Variables:
  """Shapes and dtypes of a model's variables, without computing anything.

  Args:
    model: a network called `model(images, train=...)`.
    input_shape: (H, W, C).

  Raises:
    UserError: for an argument that is not a network, or not a shape.
  """
  images = _abstract_image(model, input_shape)
  return jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), images)


def _abstract_image(model: object, input_shape: object) -> jax.ShapeDtypeStruct:
  """Shape and dtype of one image; raises `UserError` unless given a network and a shape."""
  check_type('model', model, nn.Module, 'a network, such as `create_model` makes')
  shape = tuple(input_shape) if isinstance(input_shape, list | np.ndarray) else input_shape
  check_tuple('input_shape', shape)
  return jax.ShapeDtypeStruct((1, *shape), jnp.float32)  # type: ignore[misc]


def count_params(variables: Variables) -> int:
  """Number of trainable parameters in `variables['params']`, or in a tree of parameters.

  Raises:
    UserError: for variables that hold something else than arrays.
  """
  check_type('variables', variables, Mapping, "what the network's `init` returns")
  params = variables.get('params', variables)
  for leaf in jax.tree.leaves(params):
    if not hasattr(leaf, 'shape'):
      raise UserError(f'variables hold {shown(leaf)}, not an array; give what `init` returns')
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def count_macs(model: Model, input_shape: tuple[int, ...]) -> int:
  """Multiply-adds of one image of shape (H, W, C): convolutions, dense layers, attention.

  Pooling, norms, activations and biases are not counted, as in the tables of the SE, CBAM and BAM
  papers. `macs` returns those of layers and of attention products separately.

  Raises:
    UserError: for an argument that is not a network, or not a shape.
  """
  return sum(macs(model, input_shape))


def macs(model: Model, input_shape: tuple[int, ...], variables: Variables | None = None) -> Macs:
  """Multiply-adds of one image of shape (H, W, C), by kind; as `count_operations` has them."""
  found = count_operations(model, input_shape, variables)
  return Macs(found['layers'], found['attention'] + found['relative'])


def count_operations(
  model: Model, input_shape: tuple[int, ...], variables: Variables | None = None
) -> collections.Counter[str]:
  """The operations of the traced program for one image, counted by the papers' conventions.

  Args:
    model: a network called `model(images, train=...)`.
    input_shape: (H, W, C).
    variables: the result of `abstract_variables`, where it is known already.

  Returns:
    Multiply-adds of `layers` (convolutions, dense layers), of `attention` (products of activations)
    and of `relative` (queries with relative positions); and elements that pass an `exp` (the
    entries of softmax matrices), a `relu`, or an average `pool` of whole feature maps.

  Raises:
    UserError: for an argument that is not a network, or not a shape.
    ValueError: for a program with a loop of unknown length.
  """
  images = _abstract_image(model, input_shape)
  variables = abstract_variables(model, input_shape) if variables is None else variables
  program = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, images)
  return _count(program.jaxpr, 'layers')


def _count(jaxpr: jax_core.Jaxpr, kind: str) -> collections.Counter[str]:
  """Operations of a program and of those that it calls; `kind` is that of its multiply-adds."""
  total: collections.Counter[str] = collections.Counter()
  for eqn in jaxpr.eqns:
    name, scope = eqn.primitive.name, str(eqn.source_info.name_stack)
    called = str(eqn.params.get('name'))
    within = kind
    if RELATIVE_SCOPE in scope:
      within = 'relative'
    elif ATTENTION_SCOPE in scope and kind != 'relative':
      within = 'attention'
    if (stands_for := operations_of(called)) is not None:
      total.update(stands_for)
    elif name == 'conv_general_dilated':
      total[within] += _conv_macs(eqn)
    elif name == 'dot_general':
      total[within] += _dot_macs(eqn)
    elif name == 'exp' or called == 'relu':
      total['exp' if name == 'exp' else 'relu'] += math.prod(_shape(eqn.outvars[0]))
    elif name == 'reduce_sum' and eqn.params['axes'] == (1, 2) and len(_shape(eqn.invars[0])) == 4:
      total['pool'] += math.prod(_shape(eqn.invars[0]))
    elif name == 'while':
      raise ValueError('the multiply-adds of a loop of unknown length cannot be counted')
    else:
      times = eqn.params.get('length', 1) if name == 'scan' else 1
      inner = [_count(program, within) for program in _inner_programs(eqn)]
      if name == 'cond':
        inner = [max(inner, key=lambda counted: counted.total())]
      for counted in inner:
        total.update({key: times * value for key, value in counted.items()})
  return total


def _inner_programs(eqn: jax_core.JaxprEqn) -> list[jax_core.Jaxpr]:
  """The programs that an equation calls; of a custom gradient, the forward program only."""
  found = []
  for value in eqn.params.values():
    for item in value if isinstance(value, list | tuple) else (value,):
      if isinstance(item, jax_core.ClosedJaxpr):
        found.append(item.jaxpr)
      elif isinstance(item, jax_core.Jaxpr):
        found.append(item)
  return found


def _shape(variable: jax_core.Var | jax_core.Literal) -> tuple[int, ...]:
  aval = variable.aval
  return aval.shape if isinstance(aval, jax.core.ShapedArray) else ()


def _conv_macs(eqn: jax_core.JaxprEqn) -> int:
  kernel = _shape(eqn.invars[1])
  features = kernel[eqn.params['dimension_numbers'].rhs_spec[0]]
  return math.prod(_shape(eqn.outvars[0])) * math.prod(kernel) // features


def _dot_macs(eqn: jax_core.JaxprEqn) -> int:
  (contracted, _), _ = eqn.params['dimension_numbers']
  lhs = _shape(eqn.invars[0])
  return math.prod(_shape(eqn.outvars[0])) * math.prod(lhs[axis] for axis in contracted)
