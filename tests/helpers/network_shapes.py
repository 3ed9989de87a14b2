"""Shapes and paths of a network's variables and outputs, without computing any."""

import functools
import re

import flax.traverse_util
import jax
import jax.numpy as jnp

from attn_flax.costs.count import abstract_variables

# Three stages of two blocks, small enough to run.
TINY = {'depths': (2, 2, 2), 'widths': (16, 32, 64), 'num_classes': 5}


@functools.cache
def variables_of(model, size=(32, 32)):
  """The shapes of a network's variables, for images of a size."""
  return abstract_variables(model, (*size, 3))


def parameter_paths(model):
  """The paths of a model's parameters, such as 'stage1_block1/conv1/kernel'."""
  return set(flax.traverse_util.flatten_dict(variables_of(model)['params'], sep='/'))


def module_paths(model, ending):
  """The paths of the submodules with parameters whose name ends with `ending`."""
  pattern = re.compile(f'^(.*?{ending})/')
  return {match[1] for path in parameter_paths(model) if (match := pattern.match(path))}


def output_shapes(model, size, keep):
  """Shapes of the outputs of the submodules for which `keep(module)`, by path."""

  def run(x):
    keys = jax.random.key(0)
    options = {'capture_intermediates': lambda m, _: keep(m), 'mutable': True}
    return model.init(keys, x, train=False, **options)['intermediates']

  outputs = jax.eval_shape(run, jnp.zeros((2, *size, 3)))
  return {
    path.removesuffix('/__call__'): value[0].shape
    for path, value in flax.traverse_util.flatten_dict(outputs, sep='/').items()
    if path.endswith('/__call__')
  }
