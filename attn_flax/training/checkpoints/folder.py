"""The checkpoints of a run, written by Orbax; the latest two and the best are kept."""

import contextlib
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from attn_flax.errors import UserError
from attn_flax.layers.types import Variables
from attn_flax.tasks.names import FIRST, find_task
from attn_flax.tasks.task import Task
from attn_flax.training import artifacts, run_folder
from attn_flax.training.checkpoints import digests, metadata
from attn_flax.training.checkpoints.failures import reading, reason, saving
from attn_flax.training.checkpoints.upstream import Preserved
from attn_flax.training.checkpoints.whole import Damaged, Gone, first_whole, is_gone
from attn_flax.training.distributed import processes

# A pytree of arrays, or of what stands for them.
State = TypeVar('State')
_Read = TypeVar('_Read')

_LATEST = 2  # Checkpoints kept, so that one is left where the latest is damaged.
_TRIES = 5  # Attempts to read checkpoints while the run deletes old ones.


class Checkpoints:
  """The folder `checkpoints/` of a run.

  Each step holds the items `state` (arrays) and `progress` (JSON): times and class names, the
  validation scores where there are any, the digest of each array, and that of the JSON itself. The
  best checkpoint is the one with the best validation score `Task.best`; of equal ones, the latest.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    task: Task | None = None,
    *,
    read_only: bool = False,
    is_regular: Callable[[int], bool] = lambda step: True,
  ):
    """Opens the folder; makes it unless `read_only`.

    Args:
      workdir: the run folder.
      task: the task, whose best score decides; None: that of the run's config.
      read_only: whether nothing is written or deleted.
      is_regular: (step) -> whether an uninterrupted run saves at it. Other checkpoints are kept
        only until the next save, so that a run that was stopped ends with the same checkpoints.

    Raises:
      UserError: where there is nothing to read, or the folder cannot be opened.
    """
    self._task = task or _task_of(workdir)
    self._read_only = read_only
    self._is_regular = is_regular
    self._scores: dict[int, dict[str, float] | None] = {}
    self.folder = (
      workdir / artifacts.Folder.CHECKPOINTS
    ).absolute()  # Orbax refuses relative paths.
    run_folder.check_name(workdir, read_only=read_only)
    if read_only and not self.folder.is_dir():
      raise UserError(f'{workdir} holds no checkpoints; name the folder of a run with --workdir')
    if not read_only and processes.is_first():
      # Left by a process that was killed while it saved.
      for unfinished in self.folder.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(unfinished, ignore_errors=True)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=Preserved(self._kept),
      create=not read_only,
      read_only=read_only,
      async_options=ocp.AsyncOptions(post_finalization_callback=self._mark_saved),
    )
    try:
      self._manager = ocp.CheckpointManager(
        self.folder, options=options, item_names=('state', 'progress')
      )
    except (OSError, ValueError) as error:
      raise UserError(
        f'{self.folder} cannot be opened ({reason(error)}); make it readable, or choose another '
        '--workdir'
      ) from None

  def save(
    self, step: int, state: object, progress: artifacts.Json, scores: dict[str, float] | None
  ) -> None:
    """Starts to save a checkpoint in the background; `wait` waits for it.

    Args:
      step: number of the update.
      state: the train state, a pytree of arrays.
      progress: further JSON values to store.
      scores: validation scores by name; None: the checkpoint has none yet.

    Raises:
      UserError: where this save cannot start, or the one before it has failed.
    """
    content = metadata.signed({**progress, 'scores': scores, 'digests': digests.of_arrays(state)})
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(content)
    )
    with saving(self.folder):
      self._manager.check_for_errors()
      self._scores[step] = scores
      self._manager.save(step, args=args, force=True)

  def _mark_saved(self) -> None:
    with contextlib.suppress(OSError):  # On a full disk, the next file that is written reports it.
      (self.folder.parent / artifacts.File.SAVED).touch()

  def add_scores(self, step: int, scores: dict[str, float]) -> None:
    """Adds validation scores to a checkpoint on disk that was saved without them.

    Raises:
      Damaged: where its JSON is damaged.
      UserError: where it cannot be written.
    """
    content = self._read_progress(step) | {'scores': scores, 'unscored': False}
    self._scores[step] = scores
    if processes.is_first():
      metadata.write(self.folder / str(step), content)

  def wait(self) -> None:
    """Waits until the last save is on disk.

    Raises:
      UserError: where it failed.
    """
    with saving(self.folder):
      self._manager.wait_until_finished()
      self._manager.check_for_errors()

  def close(self) -> None:
    """Waits for the last save, deletes checkpoints that are not to be kept, and closes the folder.

    Raises:
      UserError: where the last save failed.
    """
    self.wait()
    with saving(self.folder):
      steps = self.steps()
      for step in () if self._read_only else sorted(set(steps) - self._kept(steps)):
        self._manager.delete(step)
      self._manager.close()

  def steps(self) -> list[int]:
    """The steps of all checkpoints, in ascending order."""
    return list(self._manager.all_steps())

  def best(self) -> int | None:
    """The step of the checkpoint with the best validation score; None if none has scores."""
    return max(self._merits(self.steps()), default=(0.0, None))[1]

  def _merits(self, steps: Sequence[int]) -> list[tuple[float, int]]:
    """(merit, step) of each scored checkpoint; the merit is the score, or minus it, to maximize."""
    name, merits = artifacts.score_name('val', self._task.best), []
    for step in steps:
      if step not in self._scores:
        self._scores[step] = self._read_scores(step)
      scores = self._scores[step]
      if scores is not None and name in scores:
        merits.append((scores[name] if self._task.higher_is_better else -scores[name], step))
    return merits

  def _read_scores(self, step: int) -> dict[str, float] | None:
    """The validation scores of a step; None without any or, with a warning, if damaged."""
    try:
      return self._read_progress(step)['scores']
    except Damaged as error:
      if not is_gone(self.folder / str(step)) and processes.is_first():
        print(f'warning: {error}; it is skipped', file=sys.stderr)
      return None

  def _kept(self, steps: Sequence[int]) -> set[int]:
    """Which of some steps, in ascending order, are kept: the latest ones and the best."""
    regular = [step for step in steps if self._is_regular(step)]
    best = [step for _, step in sorted(self._merits(steps))[-1:]]
    return {*steps[-1:], *regular[-_LATEST:], *best}

  def restore(self, step: int, like: State) -> tuple[State, artifacts.Json]:
    """Reads the state and the progress of a checkpoint.

    Args:
      step: its step.
      like: a state, or its shapes, dtypes and shardings alone.

    Returns:
      The state, and the JSON values that were saved with it.

    Raises:
      Damaged: where the checkpoint is damaged or belongs to another network.
    """
    progress = self._read_progress(step)
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
    with reading(self.folder / str(step)):
      state = self._manager.restore(step, args=args)['state']
    digests.check_arrays(self.folder / str(step), state, progress['digests'])
    return state, {k: v for k, v in progress.items() if k not in ('scores', 'digests')}

  def restore_together(self, step: int, like: State) -> tuple[State, artifacts.Json]:
    """Does what `restore` does; where that fails in one process of a run, it fails in all."""
    try:
      return processes.together(lambda: self.restore(step, like))
    except processes.Shared as error:
      raise Damaged(str(error)) from None

  def restore_latest(self, like: State) -> tuple[int, State, artifacts.Json] | None:
    """Reads the latest checkpoint that is not damaged, so that the run can continue from it.

    Later, damaged checkpoints are renamed to `<step>.damaged`, each with a warning.

    Args:
      like: see `restore`.

    Returns:
      Its step, state and progress; None where there is no checkpoint.

    Raises:
      UserError: where all checkpoints are damaged.
    """
    if not self.steps():
      return None
    (state, progress), step = first_whole(
      self.folder, self.steps()[::-1], lambda step: self.restore_together(step, like)
    )
    behind = [later for later in self.steps() if later > step]
    for later in behind:
      if processes.is_first():
        for older in self.folder.glob('*.damaged'):  # One is kept, for the user to examine.
          shutil.rmtree(older, ignore_errors=True)
        (self.folder / str(later)).rename(self.folder / f'{later}.damaged')
    if behind:
      processes.wait_for_all()
      self._manager.reload()
    return step, state, progress

  def read_best(self, read: Callable[[int], _Read]) -> tuple[_Read, int]:
    """Reads the best checkpoint that is not damaged or, where none has scores, the latest.

    Args:
      read: (step) -> what is read of it; raises `Damaged`.

    Returns:
      What `read` returns, and the step.

    Raises:
      UserError: where there is no checkpoint, or all are damaged.
    """
    for _ in range(_TRIES):
      steps = self.steps()
      ranked = [step for _, step in sorted(self._merits(steps), reverse=True)]
      order = ranked + [step for step in reversed(steps) if step not in ranked]
      if not order:
        raise UserError(f'{self.folder} holds no checkpoint yet; let the run go on first')
      try:
        return first_whole(self.folder, order, read)
      except Gone:
        self._manager.reload()
    raise UserError(f'the checkpoints in {self.folder} change too fast to be read; try again')

  def read_weights(self, step: int) -> Variables:
    """Reads the weights of a checkpoint, or their moving average where the run kept one.

    Args:
      step: the step of the checkpoint; its network need not be known.

    Returns:
      `params` and, for a network with batch norms, `batch_stats`, as NumPy arrays.

    Raises:
      Damaged: where the checkpoint is damaged.
    """
    progress = self._read_progress(step)
    folder = self.folder / str(step) / 'state'
    with reading(self.folder / str(step)), ocp.PyTreeCheckpointer() as reader:
      tree = reader.metadata(folder).item_metadata.tree
      as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
      state = reader.restore(folder, restore_args=as_numpy)
    average = {'ema': state['ema']} if state.get('ema') else {}
    names = ('params', 'batch_stats')
    used = average or {name: state[name] for name in names if state.get(name)}
    digests.check_arrays(self.folder / str(step), used, progress['digests'])
    source = average.get('ema') or state
    return {name: source[name] for name in names if source.get(name)}

  def _read_progress(self, step: int) -> artifacts.Json:
    """The JSON of a step; raises `Damaged` where it cannot be read."""
    try:
      return metadata.read(self.folder / str(step))
    except (OSError, ValueError) as error:
      raise Damaged(f'the checkpoint {self.folder / str(step)} is damaged: {error}') from None


def _task_of(workdir: pathlib.Path) -> Task:
  """The task of a run folder; the default one for a folder with checkpoints but no config."""
  return find_task(run_folder.load_config(workdir).task if artifacts.holds_run(workdir) else FIRST)
