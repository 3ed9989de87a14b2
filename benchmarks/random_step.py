"""A training step of a network on random images, to be timed or checked."""

from collections.abc import Callable

import jax
import numpy as np
import optax

from attn_flax.layers.types import Model
from attn_flax.tasks.names import find_task
from attn_flax.training.steps import init_state, make_train_step

_RATE = 0.1


def make(model: Model, batch: int, side: int, classes: int) -> tuple[Callable, tuple]:
  """The function of a training step by SGD with Nesterov's momentum, and its arguments.

  Args:
    model: a network of `classes` logits.
    batch: number of images.
    side: their height and width.
    classes: number of labels.

  Returns:
    The step, (state, batch, key) to (state, metrics); the three of them, made from fixed seeds.
  """
  shape = (side, side, 3)
  optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(_RATE, 0.9, nesterov=True))
  init = jax.jit(lambda key: init_state(model, optimizer, key, shape, ema=False))
  rng = np.random.default_rng(0)
  inputs = {
    'image': rng.normal(size=(batch, *shape)).astype(np.float32),
    'label': rng.integers(0, classes, batch).astype(np.int32),
  }
  step = make_train_step(model, optimizer, lambda _: _RATE, find_task('classification'))
  return step, (init(jax.random.key(0)), jax.device_put(inputs), jax.random.key(1))


def compiled(step: Callable, arguments: tuple) -> tuple[Callable[[], object], jax.stages.Compiled]:
  """A call that trains once more at each time, and the compiled program."""
  state, inputs, key = arguments
  program = jax.jit(step, donate_argnums=0).lower(state, inputs, key).compile()
  held = [state]

  def call():
    held[0], metrics = program(held[0], inputs, key)
    return metrics

  return call, program
