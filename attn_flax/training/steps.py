"""The train state, and the training and evaluation steps, which run on the device.

The steps are pure functions: their randomness comes from a key, and they read and write no files.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from attn_flax.layers.types import Model, Variables
from attn_flax.tasks.task import Batch, Sums, Task
from attn_flax.training.optimizer import Schedule


class TrainState(NamedTuple):
  """Everything that training changes.

  Attributes:
    step: number of parts of batches seen so far, which with `accumulate=1` are updates.
    params: the network's parameters.
    batch_stats: running statistics of the batch norms.
    opt_state: state of the optimizer.
    ema: moving average of `{'params': ..., 'batch_stats': ...}`; None where none is kept.
  """

  step: jax.Array
  params: Variables
  batch_stats: Variables
  opt_state: optax.OptState
  ema: Variables | None


def init_state(
  model: Model,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  image_shape: tuple[int, ...],
  *,
  ema: bool,
) -> TrainState:
  """A state with random weights from a key.

  Args:
    model: the network.
    optimizer: turns gradients into updates.
    key: a random key.
    image_shape: (H, W, C) of the images.
    ema: whether the state keeps a moving average of the weights.
  """
  variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
  params, batch_stats = variables['params'], variables.get('batch_stats', {})
  average = {'params': params, 'batch_stats': batch_stats} if ema else None
  # The average is a copy, because a donated state must not contain a buffer twice.
  average = jax.tree.map(jnp.copy, average)
  return TrainState(jnp.int32(0), params, batch_stats, optimizer.init(params), average)


def make_train_step(
  model: Model,
  optimizer: optax.GradientTransformation,
  schedule: Schedule,
  task: Task,
  *,
  ema_decay: float | None = None,
  accumulate: int = 1,
  per_device: Mesh | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
  """The pure function `train_step(state, batch, key) -> (state, metrics)`.

  Args:
    model: the network.
    optimizer: turns gradients into updates.
    schedule: learning rate by update, for the metrics.
    task: what the network learns.
    ema_decay: decay of the moving average; None: there is none. In the first updates t it is at
      most (1 + t) / (10 + t), so that the average forgets the initial weights.
    accumulate: number of parts of a batch that make one update.
    per_device: a mesh with the axis `data`, whose devices each normalize their part of the batch by
      its own statistics in batch norm; None: by those of the whole batch.

  Returns:
    The step. Its batch holds `image` [N, H, W, C] float32 and the targets of the task. Its metrics
    are the scalars `loss`, those that the task logs, `lr` and `grad_norm`; with `accumulate`, all
    of them are for one part of a batch.
  """

  def gradients(
    params: optax.Params, batch_stats: Variables, batch: Batch, key: jax.Array
  ) -> tuple[dict[str, jax.Array], Variables, optax.Updates]:
    def loss_of(
      params: optax.Params,
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Variables]]:
      outputs, updated = model.apply(
        {'params': params, 'batch_stats': batch_stats},
        batch['image'],
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': key},
      )
      sums = task.sums(outputs, batch)
      means = {name: sums[name] / sums['count'] for name in task.logged if name in sums}
      return task.loss(outputs, batch), (means, updated.get('batch_stats', {}))

    (loss, (means, new_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    return {'loss': loss, **means}, new_stats, grads

  if per_device is not None:
    local = gradients

    def averaged(
      params: optax.Params, batch_stats: Variables, batch: Batch, key: jax.Array
    ) -> tuple[dict[str, jax.Array], Variables, optax.Updates]:
      key = jax.random.fold_in(key, jax.lax.axis_index('data'))
      return jax.lax.pmean(local(params, batch_stats, batch, key), 'data')

    whole, split = PartitionSpec(), PartitionSpec('data')
    gradients = jax.shard_map(
      averaged,
      mesh=per_device,
      in_specs=(whole, whole, split, whole),
      out_specs=whole,
      check_vma=False,
    )

  def train_step(
    state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    metrics, batch_stats, grads = gradients(state.params, state.batch_stats, batch, key)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    update = state.step // accumulate
    ema = state.ema
    if ema_decay is not None:
      decay = jnp.minimum(ema_decay, (1 + update) / (10 + update))
      decay = jnp.where((state.step + 1) % accumulate == 0, decay, 1.0)
      new = {'params': params, 'batch_stats': batch_stats}
      ema = jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, ema, new)
    metrics |= {'lr': schedule(update), 'grad_norm': optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics

  return train_step


def make_eval_step(
  model: Model, task: Task
) -> Callable[[Variables, Batch], tuple[Sums, dict[str, jax.Array]]]:
  """The pure function `eval_step(variables, batch) -> (sums, predictions)` of a task.

  The batch holds `image` [N, H, W, C] float32, the targets of the task and `mask` [N], 0 for
  padding. The sums leave padding out; the predictions contain it.
  """

  def eval_step(variables: Variables, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
    outputs = model.apply(variables, batch['image'], train=False)
    return task.sums(outputs, batch), task.predictions(outputs, batch)

  return eval_step
