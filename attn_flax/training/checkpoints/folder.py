"""Checkpoints of a run, by Orbax: atomic, with digests; the latest two and the best are kept."""

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
from attn_flax.training import artifacts, processes, run_folder
from attn_flax.training.checkpoints import digests
from attn_flax.training.checkpoints import progress as progress_file
from attn_flax.training.checkpoints.failures import reading, reason, saving
from attn_flax.training.checkpoints.upstream import Preserved
from attn_flax.training.checkpoints.whole import Damaged, Gone, first_whole, is_gone

# A pytree of arrays, or of what stands for them.
State = TypeVar('State')
_Read = TypeVar('_Read')

_LATEST = 2  # So that there is one before a damaged one.
_TRIES = 5  # A run that goes on deletes checkpoints while others read.


class Checkpoints:
  """The folder `checkpoints/` of a run.

  Each step holds the items `state` (arrays) and `progress` (JSON): what the run has come to, the
  validation scores where there are any, the digest of each array and that of the JSON itself. The
  best is the one whose validation score `Task.best` is; of equal ones, the latest.
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
      task: says which score decides; None: that of the run's config.
      read_only: whether nothing is written.
      is_regular: whether a run that nobody stops saves at a step. Other checkpoints are kept only
        until the next one, so that a run that was stopped ends with the same ones.

    Raises:
      UserError: when there is nothing to be read, or it cannot be.
    """
    self._task = task or _task_of(workdir)
    self._read_only = read_only
    self._is_regular = is_regular
    self._scores: dict[int, dict[str, float] | None] = {}
    self.folder = (workdir / 'checkpoints').absolute()  # Orbax refuses relative paths.
    run_folder.check_name(workdir, read_only=read_only)
    if read_only and not self.folder.is_dir():
      raise UserError(f'{workdir} holds no checkpoints; name the folder of a run with --workdir')
    if not read_only and jax.process_index() == 0:
      # Of a process that was killed.
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
    """Saves in the background.

    Raises:
      UserError: when this save or the one before it fails.
    """
    content = progress_file.signed(
      {**progress, 'scores': scores, 'digests': digests.of_arrays(state)}
    )
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(content)
    )
    with saving(self.folder):
      self._manager.check_for_errors()
      self._scores[step] = scores
      self._manager.save(step, args=args, force=True)

  def _mark_saved(self) -> None:
    with contextlib.suppress(OSError):  # A full disk is the business of what is written next.
      (self.folder.parent / run_folder.SAVED).touch()

  def add_scores(self, step: int, scores: dict[str, float]) -> None:
    """Gives a checkpoint on disk that was saved as `unscored` its scores."""
    content = self._read_progress(step) | {'scores': scores, 'unscored': False}
    self._scores[step] = scores
    if jax.process_index() == 0:
      progress_file.write(self.folder / str(step), content)

  def wait(self) -> None:
    """Waits until the last save is on disk.

    Raises:
      UserError: when it failed.
    """
    with saving(self.folder):
      self._manager.wait_until_finished()
      self._manager.check_for_errors()

  def close(self) -> None:
    """Waits, and deletes what a run that was killed has left beside the checkpoints to keep.

    Raises:
      UserError: when the last save failed.
    """
    self.wait()
    with saving(self.folder):
      steps = self.steps()
      for step in () if self._read_only else sorted(set(steps) - self._kept(steps)):
        self._manager.delete(step)
      self._manager.close()

  def steps(self) -> list[int]:
    """Steps of all checkpoints, ascending."""
    return list(self._manager.all_steps())

  def latest(self) -> int | None:
    """Step of the latest checkpoint, or None."""
    return self._manager.latest_step()

  def best(self) -> int | None:
    """Step of the checkpoint with the best validation score, or None."""
    return max(self._merits(self.steps()), default=(0.0, None))[1]

  def _merits(self, steps: Sequence[int]) -> list[tuple[float, int]]:
    """How good each scored checkpoint is, the larger the better, with its step."""
    name, merits = f'val_{self._task.best}', []
    for step in steps:
      if step not in self._scores:
        self._scores[step] = self._read_scores(step)
      scores = self._scores[step]
      if scores is not None and name in scores:
        merits.append((scores[name] if self._task.higher_is_better else -scores[name], step))
    return merits

  def _read_scores(self, step: int) -> dict[str, float] | None:
    """The validation scores of a step; None, with a warning, where they are damaged."""
    try:
      return self._read_progress(step)['scores']
    except Damaged as error:
      if not is_gone(self.folder / str(step)) and processes.is_first():
        print(f'warning: {error}; it is left out', file=sys.stderr)
      return None

  def _kept(self, steps: Sequence[int]) -> set[int]:
    """Which of the steps, ascending, are kept."""
    regular = [step for step in steps if self._is_regular(step)]
    best = [step for _, step in sorted(self._merits(steps))[-1:]]
    return {*steps[-1:], *regular[-_LATEST:], *best}

  def restore(self, step: int, like: State) -> tuple[State, artifacts.Json]:
    """The state and the progress of a step.

    Args:
      step: one of the steps kept.
      like: a state, or its shapes, dtypes and shardings alone.

    Raises:
      Damaged: when the checkpoint is damaged or belongs to another network.
    """
    progress = self._read_progress(step)
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
    with reading(self.folder / str(step)):
      state = self._manager.restore(step, args=args)['state']
    self._check_arrays(step, state, progress)
    return state, {k: v for k, v in progress.items() if k not in ('scores', 'digests')}

  def restore_together(self, step: int, like: State) -> tuple[State, artifacts.Json]:
    """What `restore` returns or raises: where it fails in one process of a run, it does in all."""
    try:
      return processes.together(lambda: self.restore(step, like))
    except processes.Shared as error:
      raise Damaged(str(error)) from None

  def restore_latest(self, like: State) -> tuple[int, State, artifacts.Json] | None:
    """The latest checkpoint that is whole: its step, state and progress; None: there is none yet.

    Damaged ones behind it are set aside, each with a warning, so that the run can go on.

    Raises:
      UserError: when all are damaged.
    """
    if not self.steps():
      return None
    (state, progress), step = first_whole(
      self.folder, self.steps()[::-1], lambda step: self.restore_together(step, like)
    )
    behind = [later for later in self.steps() if later > step]
    for later in behind:
      if jax.process_index() == 0:
        for older in self.folder.glob('*.damaged'):  # One is kept, to be looked into.
          shutil.rmtree(older, ignore_errors=True)
        (self.folder / str(later)).rename(self.folder / f'{later}.damaged')
    if behind:
      processes.wait_for_all()
      self._manager.reload()
    return step, state, progress

  def read_best(self, read: Callable[[int], _Read]) -> tuple[_Read, int]:
    """What `read` makes of the best checkpoint, and its step; of the latest where none is scored.

    A damaged one is passed over with a warning.

    Raises:
      UserError: when there is none, or all are damaged.
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
    """`params` and `batch_stats` of a step as NumPy arrays, whatever network they belong to.

    Where the run kept a moving average of them, the average is read. A network without batch norms
    has no `batch_stats`.

    Raises:
      Damaged: when the checkpoint is damaged.
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
    self._check_arrays(step, used, progress)
    source = average.get('ema') or state
    return {name: source[name] for name in names if source.get(name)}

  def _read_progress(self, step: int) -> artifacts.Json:
    """The JSON of a step; raises `Damaged`."""
    try:
      return progress_file.read(self.folder / str(step))
    except (OSError, ValueError) as error:
      raise Damaged(f'the checkpoint {self.folder / str(step)} is damaged: {error}') from None

  def _check_arrays(self, step: int, tree: object, progress: artifacts.Json) -> None:
    if progress['digests'] is None:
      if processes.is_first():
        print(
          f'warning: the checkpoint {self.folder / str(step)} was saved before there were digests; '
          'damage to it would not be noticed',
          file=sys.stderr,
        )
      return
    if names := digests.damaged(tree, progress['digests']):
      more = f' and {len(names) - 1} more' if len(names) > 1 else ''
      raise Damaged(
        f'the checkpoint {self.folder / str(step)} is damaged: {names[0]}{more} differs from its '
        'digest'
      )


def _task_of(workdir: pathlib.Path) -> Task:
  """The task of a run folder; the first one of a folder that holds checkpoints and no config."""
  is_run = (workdir / 'config.json').exists()
  return find_task(run_folder.load_config(workdir).task if is_run else FIRST)
