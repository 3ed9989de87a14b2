"""The training loop: reads the clock, the files and the signals around pure steps."""

import contextlib
import math
import pathlib
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType

import jax
import jax.experimental.multihost_utils
import numpy as np
import optax
from ml_collections import ConfigDict

from attn_flax.costs import count as cost
from attn_flax.data.pipeline.protocol import Pipeline
from attn_flax.errors import UserError
from attn_flax.training import run_folder
from attn_flax.training.checkpoints import Checkpoints, restore_best
from attn_flax.training.experiment import Experiment, open_experiment
from attn_flax.training.finetune import FlatWeights, read_source, start_from
from attn_flax.training.log import Log
from attn_flax.training.scoring import Scorer
from attn_flax.training.steps import TrainState, make_train_step

_global_norm = jax.jit(optax.tree.norm)
# What a run's checkpoints count over all its restarts.
_TIMES = ('train_seconds', 'compile_seconds')


class Stopped(Exception):  # noqa: N818
  """The run was asked to stop; its state is saved."""


class StopSignals:
  """Notes SIGTERM and SIGINT while it is entered, so that the loop can save before it leaves."""

  asked = False

  def __enter__(self) -> 'StopSignals':
    """Takes the signals over, where that is possible."""
    self._before = {}
    # Only the main thread may; and several processes would have to agree on the step.
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._before[number] = signal.signal(number, self._ask)
    return self

  def __exit__(self, *_: object) -> None:
    """Gives the signals back."""
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _ask(self, number: int, frame: FrameType | None) -> None:
    self.asked = True


def train(config: ConfigDict, workdir: pathlib.Path) -> run_folder.Json:
  """Trains the network of a config, or goes on with the run that the folder holds.

  Args:
    config: what `configs/base.py` makes.
    workdir: the run's folder.

  Returns:
    The content of `result.json`.

  Raises:
    UserError: for a config that cannot be run, a folder that holds another run, or a loss that is
      not finite.
    Stopped: after SIGTERM or an interrupt.
  """
  experiment = open_experiment(config)
  config = experiment.config
  # Traced before the folder is made: a network that cannot be built leaves nothing behind.
  costs = {
    'params': cost.count_params(cost.abstract_variables(experiment.model, experiment.image_shape)),
    'macs': cost.count_macs(experiment.model, experiment.image_shape),
  }
  first = jax.process_index() == 0
  weights = None
  if config.init_from is not None and not (workdir / 'config.json').exists():
    weights = read_source(config.init_from)
  if first:
    run_folder.open_run(workdir, config)
  jax.experimental.multihost_utils.sync_global_devices('run folder')
  if (workdir / 'result.json').exists():
    print(f'{workdir} holds a finished run, nothing to do; its result is in {workdir}/result.json')
    return run_folder.read_json(workdir / 'result.json')
  if first:
    _check_dataset(experiment, workdir / 'dataset.json')

  checkpoints = Checkpoints(workdir, experiment.task)
  try:
    progress = _run(experiment, workdir, checkpoints, weights)
  finally:
    checkpoints.close()
  state, best_step = restore_best(workdir, experiment.abstract_state())
  scores, predictions = Scorer(experiment, 'test').score_state(state, 'test')
  summary, further = experiment.task.summary(predictions, experiment.dataset.class_names)
  result: run_folder.Json = {
    **scores,
    **{f'test_{name}': value for name, value in summary.items()},
    'best_step': best_step,
    **costs,
    'steps': experiment.updates,
    **progress,
    'images_per_second': experiment.updates * config.train.batch_size / progress['train_seconds'],
  }
  if first:
    arrays = predictions | further
    np.savez(workdir / 'predictions.npz', **arrays)  # type: ignore[arg-type]
    run_folder.write_json(workdir / 'result.json', result)
  return result


def _run(
  experiment: Experiment,
  workdir: pathlib.Path,
  checkpoints: Checkpoints,
  weights: FlatWeights | None,
) -> dict[str, float]:
  """Trains from the latest checkpoint to the last update, or from `weights` where there is none.

  Returns:
    `train_seconds` and `compile_seconds` of the whole run, over all its restarts.
  """
  config = experiment.config
  accumulate = config.train.accumulate
  init_key, train_key = jax.random.split(jax.random.key(config.seed))
  train_key = jax.device_put(train_key, experiment.replicated)
  start = checkpoints.latest()
  if start is None:
    start, state = 0, _fresh_state(experiment, workdir, init_key, weights)
    progress = dict.fromkeys(_TIMES, 0.0)
  else:
    state, stored = checkpoints.restore(start, experiment.abstract_state())
    progress = {name: stored[name] for name in _TIMES}
  if start >= experiment.updates:
    return progress

  pipeline = experiment.train_pipeline()
  began = time.perf_counter()
  step = compile_step(experiment, pipeline, state, pipeline.abstract_batch(), train_key)
  progress['compile_seconds'] += time.perf_counter() - began
  scorer = Scorer(experiment, 'validation')
  eval_every = config.eval.every_epochs * experiment.updates_per_epoch
  save_every = config.checkpoint.every_steps or math.inf

  class_names = list(experiment.dataset.class_names)
  log = Log(workdir, start=start, total=experiment.updates, write=jax.process_index() == 0)
  saved, window, began = start, [], time.perf_counter()
  stream = pipeline.batches(start * accumulate)
  with log, StopSignals() as stop, contextlib.closing(stream) as inputs:
    for update in range(start + 1, experiment.updates + 1):
      for _ in range(accumulate):
        state, metrics = step(state, pipeline.constants, next(inputs), train_key)
        window.append(metrics)
      log.advance(update)
      evaluates = update % eval_every == 0 or update == experiment.updates
      saves = evaluates or update % save_every == 0 or stop.asked
      if saves or update % config.log_every == 0:
        values = jax.device_get(window)
        seconds = time.perf_counter() - began
        _check_finite(values, update, accumulate, saved, workdir)
        means = {name: float(np.mean([v[name] for v in values])) for name in values[0]}
        images = len(values) * config.train.batch_size / accumulate
        log.metrics(update, {**means, 'images_per_second': images / seconds})
        progress['train_seconds'] += seconds
        window = []
      scores = None
      if saves:  # The last update may have broken what its own loss still shows whole.
        norm = {'the norm of the weights': float(_global_norm(state.params))}
        _check_finite([norm], update, 1, saved, workdir)
      if evaluates:
        scores, _ = scorer.score_state(state, 'val')
        _check_finite([scores], update, 1, saved, workdir)
        log.metrics(update, scores)
      if saves:
        # With the class names, weights can be used wherever the checkpoint is taken.
        checkpoints.save(update, state, {**progress, 'class_names': class_names}, scores)
        saved = update
      if stop.asked and update < experiment.updates:
        raise Stopped(f'stopped after update {update} of {experiment.updates}, saved in {workdir}')
      if not window:
        began = time.perf_counter()
  return progress


def _fresh_state(
  experiment: Experiment, workdir: pathlib.Path, key: jax.Array, weights: FlatWeights | None
) -> TrainState:
  """A new state, with the weights that the config starts from; `weights` where they are read."""
  state, source = experiment.fresh_state(key), experiment.config.init_from
  if source is None:
    return state
  state, loaded = start_from(state, weights or read_source(source))
  if jax.process_index() == 0:
    print(f'starting from {source}: {loaded.describe()}')
    run_folder.write_json(workdir / 'init_from.json', loaded._asdict())
  return state


def compile_step(
  experiment: Experiment,
  pipeline: Pipeline,
  state: TrainState,
  inputs: Mapping[str, jax.ShapeDtypeStruct],
  key: jax.Array,
):
  """Compiles one training step: gather, augment, forward, backward, update."""
  train = experiment.config.train
  train_step = make_train_step(
    experiment.model,
    experiment.optimizer,
    experiment.schedule,
    experiment.task,
    ema_decay=train.ema_decay,
    accumulate=train.accumulate,
    per_device=experiment.mesh if train.batch_norm == 'per_device' else None,
  )

  def step(state, constants, inputs, key):
    augment_key, model_key = jax.random.split(jax.random.fold_in(key, state.step))
    return train_step(state, pipeline.train_batch(constants, inputs, augment_key), model_key)

  jitted = jax.jit(step, donate_argnums=0, out_shardings=experiment.replicated)
  return jitted.lower(state, pipeline.constants, inputs, key).compile()


def _check_dataset(experiment: Experiment, path: pathlib.Path) -> None:
  """Checks that classes and images are still those of the run, and writes them where it is new."""
  found = experiment.describe_data()
  before = run_folder.read_json(path) if path.exists() else {}
  for what, name in (('classes', 'class_names'), ('numbers of images', 'examples')):
    if name in before and before[name] != found[name]:
      raise UserError(
        f'the {what} of {experiment.config.data.name} have changed since {path} was written; '
        'restore them, or choose another --workdir'
      )
  run_folder.write_json(path, found)


def _check_finite(
  values: Sequence[Mapping[str, float]],
  update: int,
  accumulate: int,
  saved: int,
  workdir: pathlib.Path,
) -> None:
  """Raises `UserError` at the first part of a window, up to `update`, that is not finite."""
  for i, metrics in enumerate(values):
    broken = [name for name, value in metrics.items() if not np.isfinite(value)]
    if broken:
      name = min(broken, key=lambda name: 'loss' not in name)  # The loss says most.
      step = update - (len(values) - 1 - i) // accumulate
      good = f'the last good checkpoint is {workdir}/checkpoints/{saved}'
      raise UserError(
        f'{name} is {metrics[name]} at update {step}; '
        f'{good if saved else "there is no checkpoint yet"}; lower optimizer.lr_per_256 or set '
        'train.clip_norm, in a new --workdir'
      )
