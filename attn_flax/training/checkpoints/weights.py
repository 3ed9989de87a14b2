"""Reads the weights of a run folder."""

import pathlib

import jax

from attn_flax.layers.types import Variables
from attn_flax.training.checkpoints.folder import Checkpoints, State


def read_weights(workdir: pathlib.Path) -> Variables:
  """The weights of a run folder, on the device, as `model.apply` takes them.

  They are those of the best checkpoint, or of the latest where none has scores; their moving
  average where the run kept one. Neither the network nor the optimizer needs to be known.

  Raises:
    UserError: where the folder holds no checkpoint, or none can be read.
  """
  checkpoints = Checkpoints(workdir, read_only=True)
  try:
    weights, _ = checkpoints.read_best(checkpoints.read_weights)
    return jax.device_put(weights)
  finally:
    checkpoints.close()


def restore_best(workdir: pathlib.Path, like: State) -> tuple[State, int]:
  """The whole state of a run folder's best checkpoint, and its update.

  Unlike `read_weights`, it keeps the raw weights beside their moving average, and checks that the
  state fits the network. Where no checkpoint has scores, the latest is taken.

  Args:
    workdir: the run folder.
    like: a state, or its shapes, dtypes and shardings alone.

  Raises:
    UserError: where the folder holds no checkpoint, or none that can be read for this network.
  """
  checkpoints = Checkpoints(workdir, read_only=True)
  try:
    (state, _), best = checkpoints.read_best(lambda step: checkpoints.restore_together(step, like))
  finally:
    checkpoints.close()
  return state, best
