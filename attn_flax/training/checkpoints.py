"""Checkpoints of a run, by Orbax: atomic, the latest and the best kept."""

import asyncio
import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from attn_flax.errors import UserError
from attn_flax.layers.types import Variables
from attn_flax.tasks.names import find_task
from attn_flax.tasks.task import Task
from attn_flax.training import run_folder

# A pytree of arrays, or of what stands for them.
State = TypeVar('State')


def _reason(error: BaseException) -> str:
  """The beginning of what first went wrong."""
  while error.__cause__ is not None:
    error = error.__cause__
  return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'


class _DrainingLoop(asyncio.SelectorEventLoop):
  """An event loop that waits for its tasks before it closes."""

  def close(self) -> None:
    """Waits, then closes."""
    if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
      self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    super().close()


@contextlib.contextmanager
def _draining_loops() -> Iterator[None]:
  """Has the event loops that are made meanwhile wait for their tasks before they close.

  Orbax reads each array by a task of a fresh loop, and closes the loop at the first error: the
  other tasks then end as garbage, each with a traceback on stderr, beside the one error that
  counts. Waiting belongs into its `run_sync`; until it is there, this stands in for it.
  https://github.com/google/orbax/blob/main/checkpoint/orbax/checkpoint/_src/asyncio_utils.py
  """
  original = asyncio.new_event_loop
  asyncio.new_event_loop = _DrainingLoop
  try:
    yield
  finally:
    asyncio.new_event_loop = original


class Checkpoints:
  """The folder `checkpoints/` of a run.

  Each step holds the items `state` (arrays) and `progress` (JSON), and the validation scores
  where there are any. The best is the one whose validation score `Task.best` is; of equal ones, the
  latest.
  """

  def __init__(self, workdir: pathlib.Path, task: Task | None = None, *, read_only: bool = False):
    """Opens the folder; makes it unless `read_only`.

    Args:
      workdir: the run folder.
      task: says which score decides; None: that of the run's config.
      read_only: whether nothing is written.

    Raises:
      UserError: when there is nothing to be read, or it cannot be.
    """
    self._task = task or _task_of(workdir)
    self.folder = (workdir / 'checkpoints').absolute()  # Orbax refuses relative paths.
    if read_only and not self.folder.is_dir():
      raise UserError(f'{workdir} holds no checkpoints; name the folder of a run with --workdir')
    # `max_to_keep` with `best_fn` would delete the latest, and with it the way to resume.
    keep = checkpoint_managers.AnyPreservationPolicy(
      [
        checkpoint_managers.LatestN(1),
        checkpoint_managers.BestN(
          get_metric_fn=self._merit, n=1, keep_checkpoints_without_metrics=False
        ),
      ]
    )
    options = ocp.CheckpointManagerOptions(
      preservation_policy=keep,
      best_fn=self._merit,  # Without it Orbax writes no scores; the policy decides what is kept.
      create=not read_only,
      read_only=read_only,
    )
    try:  # It reads the scores of all checkpoints.
      self._manager = ocp.CheckpointManager(
        self.folder, options=options, item_names=('state', 'progress')
      )
    except (OSError, ValueError) as error:
      raise UserError(
        f'{self.folder} cannot be opened ({_reason(error)}); make it readable, remove what is '
        'damaged in it, or choose another --workdir'
      ) from None

  def save(
    self, step: int, state: object, progress: run_folder.Json, scores: dict[str, float] | None
  ) -> None:
    """Saves in the background; an error of the save before it is raised here."""
    self._manager.check_for_errors()
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
    )
    self._manager.save(step, args=args, metrics=scores, force=True)

  def _merit(self, metrics: Mapping[str, float]) -> float:
    """What is the larger the better a checkpoint is."""
    score = metrics[f'val_{self._task.best}']
    return score if self._task.higher_is_better else -score

  def best_or_latest(self) -> int:
    """Step of the best checkpoint, or of the latest where none is scored.

    Raises:
      UserError: when there is none.
    """
    best, latest = self.best(), self.latest()
    if latest is None:
      raise UserError(f'{self.folder} holds no checkpoint yet; let the run go on first')
    return latest if best is None else best

  def latest(self) -> int | None:
    """Step of the latest checkpoint, or None."""
    return self._manager.latest_step()

  def best(self) -> int | None:
    """Step of the checkpoint with the best validation score, or None."""
    scored = [
      (self._merit(metrics), step)
      for step in self._manager.all_steps()
      if (metrics := self._manager.metrics(step)) is not None
    ]
    return max(scored)[1] if scored else None

  def restore(self, step: int, like: State) -> tuple[State, run_folder.Json]:
    """The state and the progress of a step.

    Args:
      step: one of the steps kept.
      like: a state, or its shapes, dtypes and shardings alone.

    Raises:
      UserError: when the checkpoint is damaged or belongs to another network.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(target), progress=ocp.args.JsonRestore()
    )
    with _draining_loops():
      try:
        restored = self._manager.restore(step, args=args)
        return restored['state'], restored['progress']
      except Exception as error:  # Orbax raises many types, by what is damaged.
        reason = _reason(error)
    raise UserError(
      f'the checkpoint {self.folder / str(step)} cannot be read: it is damaged or belongs to '
      f'another network ({reason}); remove that folder to go back to the checkpoint before it, or '
      'choose another --workdir'
    )

  def read_weights(self, step: int) -> Variables:
    """`params` and `batch_stats` of a step as NumPy arrays, whatever network they belong to.

    Where the run kept a moving average of them, the average is read. A network without batch norms
    has no `batch_stats`.

    Raises:
      UserError: when the checkpoint is damaged.
    """
    folder = self.folder / str(step) / 'state'
    with _draining_loops():
      try:
        with ocp.PyTreeCheckpointer() as reader:
          tree = reader.metadata(folder).item_metadata.tree
          as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
          state = reader.restore(folder, restore_args=as_numpy)
      except Exception as error:  # Orbax raises many types, by what is damaged.
        raise UserError(f'the checkpoint {folder} cannot be read ({_reason(error)})') from None
    source = state.get('ema') or state
    return {name: source[name] for name in ('params', 'batch_stats') if source.get(name)}

  def close(self) -> None:
    """Waits for the last save; raises its error if it failed."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()
    self._manager.close()


def _task_of(workdir: pathlib.Path) -> Task:
  """The task of a run folder; the usual one of a folder that holds checkpoints and no config."""
  is_run = (workdir / 'config.json').exists()
  return find_task(
    run_folder.task_name(run_folder.load_config(workdir) if is_run else ConfigDict())
  )


def read_weights(workdir: pathlib.Path) -> Variables:
  """The weights to use of a run folder, on the device, as `model.apply` takes them.

  They are those of the best checkpoint, or of the latest where none is scored; of these, the moving
  average where the run kept one. Neither the network nor the optimizer needs to be known.

  Raises:
    UserError: when the folder holds no checkpoint, or it cannot be read.
  """
  checkpoints = Checkpoints(workdir, read_only=True)
  try:
    return jax.device_put(checkpoints.read_weights(checkpoints.best_or_latest()))
  finally:
    checkpoints.close()


def restore_best(workdir: pathlib.Path, like: State) -> tuple[State, int]:
  """The whole state of a run folder's best checkpoint, and its update.

  Unlike `read_weights` it keeps the raw weights beside their moving average, and checks that all of
  it fits the network. Where no checkpoint is scored, the latest is taken.

  Args:
    workdir: the run folder.
    like: a state, or its shapes, dtypes and shardings alone.

  Raises:
    UserError: when the folder holds no checkpoint, or one that cannot be read or belongs to another
      network.
  """
  checkpoints = Checkpoints(workdir, read_only=True)
  try:
    best = checkpoints.best_or_latest()
    state, _ = checkpoints.restore(best, like)
  finally:
    checkpoints.close()
  return state, best
