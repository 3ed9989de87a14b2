"""The training loop: reads the clock, the files and the signals around pure steps."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from attn_flax.costs import count as cost
from attn_flax.data.pipeline.protocol import Pipeline
from attn_flax.training import dataset_file, lock, processes, run_folder, stopping
from attn_flax.training.checkpoints import Checkpoints, restore_best
from attn_flax.training.experiment import Experiment, open_experiment
from attn_flax.training.finetune import FlatWeights, read_source, start_from
from attn_flax.training.log import Log
from attn_flax.training.scoring import Interrupted, Scorer
from attn_flax.training.steps import TrainState, make_train_step
from attn_flax.training.window import Window, check_finite

_global_norm = jax.jit(optax.tree.norm)
# What a run's checkpoints count over all its restarts.
_TIMES = ('train_seconds', 'compile_seconds')


def train(config: ConfigDict, workdir: pathlib.Path, *, restart: bool = False) -> run_folder.Json:
  """Trains the network of a config, or goes on with the run that the folder holds.

  Args:
    config: what `configs/base.py` makes.
    workdir: the run's folder.
    restart: whether the run that the folder holds is removed first.

  Returns:
    The content of `result.json`.

  Raises:
    UserError: for a config that cannot be run, a folder that holds another run or is being written
      by another process, or a loss that is not finite.
    Stopped: after a signal, see `stopping`; the run is saved, and the same call goes on.
  """
  is_stored = (workdir / 'config.json').exists()
  with run_folder.reading_config(workdir) if is_stored else contextlib.nullcontext():
    experiment = processes.together(lambda: open_experiment(config))
  config = experiment.config
  processes.check_same('the dataset', experiment.describe_data())
  # Where it is, nothing is written, nor locked.
  if not restart and processes.as_first(lambda: run_folder.is_finished(workdir, config)):
    return _finished(workdir)
  # Traced before the folder is made: a network that cannot be built leaves nothing behind.
  costs = {
    'params': cost.count_params(cost.abstract_variables(experiment.model, experiment.image_shape)),
    'macs': cost.count_macs(experiment.model, experiment.image_shape),
  }
  weights = None
  if config.init_from is not None and (restart or not is_stored):
    weights = processes.together(lambda: read_source(config.init_from))
  with contextlib.ExitStack() as stack:
    processes.together(lambda: _open_folder(experiment, workdir, restart, stack))
    processes.check_sees(workdir / 'config.json')
    if processes.as_first((workdir / 'result.json').exists):  # Another process was faster.
      return _finished(workdir)
    checkpoints = Checkpoints(workdir, experiment.task, is_regular=_saving_steps(experiment))
    try:
      progress = _run(experiment, workdir, checkpoints, weights)
    finally:
      checkpoints.close()
    return _score(experiment, workdir, progress | costs)


def _finished(workdir: pathlib.Path) -> run_folder.Json:
  result = run_folder.read_result(workdir)
  path = workdir / 'result.json'
  if processes.is_first():
    print(f'{workdir} holds a finished run, nothing to do; its result is in {path}')
  return result


def _open_folder(
  experiment: Experiment, workdir: pathlib.Path, restart: bool, stack: contextlib.ExitStack
) -> None:
  """Opens the run folder on the first process, and holds its lock as long as the stack."""
  if not processes.is_first():
    return
  stack.enter_context(lock.locked(workdir))
  if restart:
    run_folder.remove_run(workdir)
  run_folder.open_run(workdir, experiment.config)
  if not (workdir / 'result.json').exists():
    dataset_file.check(workdir, experiment.describe_data())


def _score(
  experiment: Experiment, workdir: pathlib.Path, further: run_folder.Json
) -> run_folder.Json:
  """Scores the best checkpoint of a trained run on the test split, and writes the result."""
  state, best_step = restore_best(workdir, experiment.abstract_state())
  scores, predictions = Scorer(experiment, 'test').score_state(state, 'test')
  summary, arrays = experiment.task.summary(predictions, experiment.dataset.class_names)
  images = experiment.updates * experiment.config.train.batch_size
  result: run_folder.Json = {
    **scores,
    **{f'test_{name}': value for name, value in summary.items()},
    'best_step': best_step,
    'params': further['params'],
    'macs': further['macs'],
    'steps': experiment.updates,
    **{name: further[name] for name in _TIMES},
    'images_per_second': images / further['train_seconds'],
  }
  if processes.is_first():
    np.savez(workdir / 'predictions.npz', **predictions | arrays)  # type: ignore[arg-type]
    run_folder.write_json(workdir / 'result.json', result)
  return result


def _saving_steps(experiment: Experiment) -> Callable[[int], bool]:
  """Whether a run that nobody stops saves after an update."""
  eval_every = experiment.config.eval.every_epochs * experiment.updates_per_epoch
  save_every = experiment.config.checkpoint.every_steps or eval_every

  def saves(update: int) -> bool:
    return update % eval_every == 0 or update % save_every == 0 or update == experiment.updates

  return saves


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
  # Not `device_put`, which reaches the devices of this process alone.
  train_key = jax.jit(lambda key: key, out_shardings=experiment.replicated)(train_key)
  start, unscored, window = 0, False, Window()
  like = experiment.abstract_state()
  restored = processes.together(lambda: checkpoints.restore_latest(like))
  if restored is None:
    saves_at = _saving_steps(experiment)
    processes.together(lambda: run_folder.check_never_saved(workdir, saves_at))
    state = _fresh_state(experiment, workdir, init_key, weights)
    progress = dict.fromkeys(_TIMES, 0.0)
  else:
    start, state, stored = restored
    progress = {name: stored[name] for name in _TIMES}
    unscored = stored.get('unscored', False)
  if start >= experiment.updates and not unscored:
    return progress

  pipeline = experiment.train_pipeline()
  began = time.perf_counter()
  step = compile_step(experiment, pipeline, state, pipeline.abstract_batch(), train_key)
  progress['compile_seconds'] += time.perf_counter() - began
  processes.wait_for_all()  # One that has to compile what others find in a cache holds them up.
  scorer = Scorer(experiment, 'validation')
  eval_every = config.eval.every_epochs * experiment.updates_per_epoch
  saves_at = _saving_steps(experiment)
  class_names = list(experiment.dataset.class_names)
  images = config.train.batch_size // accumulate
  log = Log(
    workdir,
    start=start,
    total=experiment.updates,
    unscored=unscored,
    write=processes.is_first(),
  )

  def evaluate(update: int) -> dict[str, float] | None:
    """The scores on the validation split; None where the run was asked to stop meanwhile."""
    try:
      # Of several processes none may leave an evaluation alone.
      may_leave = jax.process_count() == 1
      scores, _ = scorer.score_state(state, 'val', lambda: may_leave and stop.asked is not None)
    except Interrupted:
      return None
    check_finite([scores], update, 1, saved, workdir)
    log.metrics(update, scores)
    return scores

  def stopped_after(update: int) -> str:
    return f'stopped after update {update} of {experiment.updates}, saved in {workdir}'

  saved = start
  stream = pipeline.batches(start * accumulate)
  with log, stopping.deferred() as stop, contextlib.closing(stream) as inputs:
    if unscored:
      if (scores := evaluate(start)) is None:
        raise stop.answer(stopped_after(start))
      checkpoints.add_scores(start, scores)
    window = Window(None if restored is None else stored.get('window'))
    for update in range(start + 1, experiment.updates + 1):
      for _ in range(accumulate):
        state, metrics = step(state, pipeline.constants, next(inputs), train_key)
        window.add(metrics)
      log.advance(update)
      # Asked once: the same answer decides what is saved and whether the run leaves.
      stops = processes.asked_to_stop(stop, update)
      evaluates = update % eval_every == 0 or update == experiment.updates
      logs = saves_at(update) or update % config.log_every == 0
      if logs or stops:
        check_finite(window.read(), update, accumulate, saved, workdir)
        progress['train_seconds'] += window.lap()
      if logs:
        log.metrics(update, {**window.means(), 'images_per_second': window.rate(images)})
      # The last update may have broken what its own loss still shows whole.
      if saves_at(update) or stops:
        norm = {'the norm of the weights': float(_global_norm(state.params))}
        check_finite([norm], update, 1, saved, workdir)
      scores = evaluate(update) if evaluates and not stops else None
      stops = stops or (evaluates and scores is None)
      if saves_at(update) or stops:
        content = {
          **progress,
          'class_names': class_names,  # With them, weights can be used wherever they are taken.
          'unscored': evaluates and scores is None,
          'window': None if logs else window.store(),
        }
        checkpoints.save(update, state, content, scores)
        saved = update
      if stops:
        checkpoints.wait()
        raise stop.answer(stopped_after(update))
      if logs:
        window.clear()
    checkpoints.wait()
    if processes.any_asked_to_stop(stop):  # During the last save.
      raise stop.answer(stopped_after(experiment.updates))
  return progress


def _fresh_state(
  experiment: Experiment, workdir: pathlib.Path, key: jax.Array, weights: FlatWeights | None
) -> TrainState:
  """A new state, with the weights that the config starts from; `weights` where they are read."""
  state, source = experiment.fresh_state(key), experiment.config.init_from
  if source is None:
    return state
  state, loaded = start_from(state, weights or read_source(source))
  if processes.is_first():
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
