"""The updates of a run: logs, scores, saves and handles signals around pure training steps."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
import optax

from attn_flax.data.pipeline.protocol import Arrays, Pipeline
from attn_flax.training import allocator, artifacts, run_folder, stopping
from attn_flax.training.checkpoints import Checkpoints
from attn_flax.training.distributed import processes
from attn_flax.training.experiment import Experiment
from attn_flax.training.finetune import FlatWeights, read_source, start_from
from attn_flax.training.log import Log
from attn_flax.training.scoring import Interrupted, Scorer
from attn_flax.training.steps import TrainState, make_train_step
from attn_flax.training.window import Window, check_finite

_global_norm = jax.jit(optax.tree.norm)
# Times that a run adds up in its checkpoints, over all its restarts.
TIMES = ('train_seconds', 'compile_seconds')


class Updates:
  """The updates of a run, from its latest checkpoint to the last update.

  What follows an update (a line of the log, scores, a checkpoint) depends on its number alone, so
  that a run that was stopped and continued ends as one that was not.
  """

  def __init__(
    self,
    experiment: Experiment,
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    weights: FlatWeights | None,
  ):
    """Restores the latest checkpoint, or makes a fresh state.

    Args:
      experiment: the run.
      workdir: its folder, which this process may write.
      checkpoints: the checkpoints in that folder.
      weights: the weights of `config.init_from` for a fresh state; None: they are read if needed.

    Raises:
      UserError: where no checkpoint can be read, or all have been lost.
    """
    self._experiment = experiment
    self._workdir = workdir
    self._checkpoints = checkpoints
    self._saves_at = saving_steps(experiment)
    self._eval_every = eval_every(experiment)
    init_key, train_key = jax.random.split(jax.random.key(experiment.config.seed))
    # `device_put` would only reach the devices of this process.
    self._key = jax.jit(lambda key: key, out_shardings=experiment.replicated)(train_key)
    like, stored = experiment.abstract_state(), artifacts.Json()
    restored = processes.together(lambda: checkpoints.restore_latest(like))
    if restored is None:
      processes.together(lambda: run_folder.check_never_saved(workdir, self._saves_at))
      self._state = _fresh_state(experiment, workdir, init_key, weights)
      self._saved = 0
    else:
      self._saved, self._state, stored = restored
    self._times: dict[str, float] = {name: stored.get(name, 0.0) for name in TIMES}
    self._unscored = stored.get('unscored', False)
    self._stored_window = stored.get('window')
    self._has_logged = False

  @property
  def start(self) -> int:
    """The update after which the latest checkpoint was saved; 0 without a checkpoint."""
    return self._saved

  def run(self) -> dict[str, float]:
    """Makes all updates that are left.

    Returns:
      The seconds of each of `TIMES` in the whole run, over all its restarts.

    Raises:
      UserError: for a loss that is not finite, or a folder that cannot be written.
      Stopped: after a signal; the run is saved.
    """
    start, total = self._saved, self._experiment.updates
    if start >= total and not self._unscored:
      return self._times
    pipeline = self._experiment.train_pipeline()
    step = self._compile(pipeline)
    self._scorer = Scorer(self._experiment, 'validation')
    accumulate = self._experiment.config.train.accumulate
    self._log = Log(
      self._workdir,
      start=start,
      total=total,
      batch_size=self._experiment.config.train.batch_size,
      eval_every=self._eval_every,
      unscored=self._unscored,
      write=processes.is_first(),
    )
    stream = pipeline.batches(start * accumulate)
    with self._log, stopping.deferred() as stop, contextlib.closing(stream) as inputs:
      if self._unscored:
        self._score_restored(stop)
      self._window = Window(self._stored_window)  # Starts its clock.
      for update in range(start + 1, total + 1):
        for _ in range(accumulate):
          self._state, metrics = step(self._state, pipeline.constants, next(inputs), self._key)
          self._window.add(metrics)
        self._log.advance(self._finished(update, self._window.waiting()))
        self._finish(update, stop)
      self._checkpoints.wait()
      if processes.any_asked_to_stop(stop):  # During the last save.
        raise self._stopped(stop, total)
    return self._times

  def _compile(self, pipeline: Pipeline) -> jax.stages.Compiled:
    began = time.perf_counter()
    inputs = pipeline.abstract_batch()
    step = compile_step(self._experiment, pipeline, self._state, inputs, self._key)
    self._times['compile_seconds'] += time.perf_counter() - began
    processes.wait_for_all()  # One that has to compile what others find in a cache holds them up.
    return step

  def _finished(self, update: int, waiting: int) -> int:
    """The last update that the device has finished, if `waiting` parts up to `update` are left."""
    return update - -(-waiting // self._experiment.config.train.accumulate)

  def _finish(self, update: int, stop: stopping.Stop) -> None:
    """Logs, scores and saves after an update where that is due, and stops where asked to.

    Raises:
      UserError: see `run`.
      Stopped: see `run`.
    """
    # Asked once, so that the same answer decides what is saved and whether the run stops.
    stops = processes.asked_to_stop(stop, update)
    saves = self._saves_at(update)
    logs = saves or update % self._experiment.config.log_every == 0
    if logs or stops:
      for waiting in self._window.finish():
        self._log.advance(self._finished(update, waiting))
      self._check(self._window.read(), update)
      self._times['train_seconds'] += self._window.lap()
    if logs:
      train = self._experiment.config.train
      rate = self._window.rate(train.batch_size // train.accumulate)
      self._log.metrics(update, {**self._window.means(), 'images_per_second': rate})
    if saves or stops:
      # The last update may have made weights infinite or NaN, which its own loss does not show.
      self._check([{'the norm of the weights': float(_global_norm(self._state.params))}], update)
    scores, unscored = None, False
    if update % self._eval_every == 0 or update == self._experiment.updates:
      scores = None if stops else self._evaluate(update, stop)
      unscored = scores is None
    stops = stops or unscored
    if saves or stops:
      content = {
        **self._times,
        # Weights copied elsewhere then still come with their class names.
        'class_names': list(self._experiment.dataset.class_names),
        'unscored': unscored,
        'window': None if logs else self._window.store(),
      }
      self._checkpoints.save(update, self._state, content, scores)
      self._saved = update
    if stops:
      self._checkpoints.wait()
      raise self._stopped(stop, update)
    if logs:
      self._window.clear()
      # By the first line of the log, the compiler has freed its memory.
      if saves or not self._has_logged:
        allocator.give_back()
      self._has_logged = True

  def _evaluate(self, update: int, stop: stopping.Stop) -> dict[str, float] | None:
    """The scores on the validation split; None where the run was asked to stop meanwhile."""
    # With several processes, none may leave an evaluation by itself.
    may_leave = jax.process_count() == 1
    try:
      with self._log.evaluating():
        scores, _ = self._scorer.score_state(
          self._state, 'val', lambda: may_leave and stop.asked is not None
        )
    except Interrupted:
      return None
    self._check([scores], update)
    self._log.metrics(update, scores)
    return scores

  def _score_restored(self, stop: stopping.Stop) -> None:
    """Adds scores to the restored checkpoint, which was saved without them."""
    scores = self._evaluate(self._saved, stop)
    if scores is None:
      raise self._stopped(stop, self._saved)
    self._checkpoints.add_scores(self._saved, scores)

  def _check(self, values: Sequence[Mapping[str, float | np.floating]], update: int) -> None:
    """Checks that the metrics of the parts up to an update are finite."""
    accumulate = self._experiment.config.train.accumulate
    check_finite(values, update, accumulate, self._saved, self._workdir)

  def _stopped(self, stop: stopping.Stop, update: int) -> stopping.Stopped:
    return stop.answer(
      f'stopped after update {update} of {self._experiment.updates}, saved in {self._workdir}'
    )


def eval_every(experiment: Experiment) -> int:
  """Updates from one score on the validation split to the next."""
  return experiment.config.eval.every_epochs * experiment.updates_per_epoch


def saving_steps(experiment: Experiment) -> Callable[[int], bool]:
  """A function from the number of an update to whether an uninterrupted run saves after it."""
  scored_every = eval_every(experiment)
  save_every = experiment.config.checkpoint.every_steps or scored_every

  def saves(update: int) -> bool:
    return update % scored_every == 0 or update % save_every == 0 or update == experiment.updates

  return saves


def _fresh_state(
  experiment: Experiment, workdir: pathlib.Path, key: jax.Array, weights: FlatWeights | None
) -> TrainState:
  """A new state, with the weights of `config.init_from`; `weights` if they have been read."""
  state, source = experiment.fresh_state(key), experiment.config.init_from
  if source is None:
    return state
  state, loaded = start_from(state, weights or read_source(source))
  if processes.is_first():
    print(f'starting from {source}: {loaded.describe()}')
    artifacts.write_json(workdir / artifacts.File.SOURCE, loaded._asdict())
  return state


def compile_step(
  experiment: Experiment,
  pipeline: Pipeline,
  state: TrainState,
  inputs: Mapping[str, jax.ShapeDtypeStruct],
  key: jax.Array,
) -> jax.stages.Compiled:
  """Compiles the training step; the compiled function donates the buffers of its state.

  Args:
    experiment: the run.
    pipeline: the batches of the training split.
    state: a train state, or its shapes, dtypes and shardings.
    inputs: those of `pipeline.abstract_batch`.
    key: the random key of the run.
  """
  step = training_step(experiment, pipeline)
  jitted = jax.jit(step, donate_argnums=0, out_shardings=experiment.replicated)
  return jitted.lower(state, pipeline.constants, inputs, key).compile()


def training_step(
  experiment: Experiment, pipeline: Pipeline
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """The function of one training step: gather, augment, forward, backward, update.

  Returns:
    (state, constants of the pipeline, inputs of the step, key of the run) -> (state, metrics).
  """
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

  def step(
    state: TrainState, constants: Arrays, inputs: Arrays, key: jax.Array
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    augment_key, model_key = jax.random.split(jax.random.fold_in(key, state.step))
    return train_step(state, pipeline.train_batch(constants, inputs, augment_key), model_key)

  return step
