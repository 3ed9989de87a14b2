"""Networks with random variables, and their maps, each computed once."""

import functools

import attending
import jax
import numpy as np
import pytest
from small_networks import CLASSES, NETWORKS, images

from attn_flax import create_model, explain


@pytest.fixture(scope='session')
def made(randomized):
  """A function that makes a network by its name, and random variables for it."""

  def make(model):
    if isinstance(model, str):
      name, fields, _ = NETWORKS[model]
      model = create_model(name, num_classes=CLASSES, **fields)
    init = functools.partial(model.init, train=False)
    return model, randomized(jax.eval_shape(init, jax.random.key(0), images()))

  return make


@pytest.fixture(scope='session')
def variables_for(randomized):
  """A function that makes random variables for a network."""

  @functools.cache
  def make(model):
    init = functools.partial(model.init, train=False)
    return randomized(jax.eval_shape(init, jax.random.key(0), attending.images()))

  return make


@pytest.fixture(scope='session')
def explained(variables_for):
  """A function that computes all maps of a network, with all queries of a mechanism."""

  @functools.cache
  def explain_all(model, name=None):
    variables, x = variables_for(model), attending.images()
    everyone = {
      p: np.arange(np.prod(q)) for p, (_, q, _) in attending.WEIGHTED.get(name, {}).items()
    }

    @jax.jit
    def run(variables, x):
      return (
        explain.attention_maps(model, variables, x, queries=everyone),
        explain.attention_received(model, variables, x),
        explain.own_map(model, variables, x),
      )

    return jax.device_get(run(variables, x))

  return explain_all
