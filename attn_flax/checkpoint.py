"""Checkpoints of a run, by Orbax: atomic, the latest and the best kept."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from attn_flax.errors import UserError


def _val_top1(metrics: dict[str, float]) -> float:
  return metrics['val_top1']


class Checkpoints:
  """The folder `checkpoints/` of a run.

  Each step holds the items `state` (arrays) and `progress` (JSON), and the validation scores
  where there are any. The best is the one with the highest `val_top1`; of equal ones, the latest.
  """

  def __init__(self, workdir: pathlib.Path, *, read_only: bool = False):
    """Opens the folder; makes it unless `read_only`."""
    self.folder = (workdir / 'checkpoints').absolute()  # Orbax refuses relative paths.
    if read_only and not self.folder.is_dir():
      raise UserError(f'{workdir} holds no checkpoints; name the folder of a run with --workdir')
    # `max_to_keep` with `best_fn` would delete the latest, and with it the way to resume.
    keep = checkpoint_managers.AnyPreservationPolicy(
      [
        checkpoint_managers.LatestN(1),
        checkpoint_managers.BestN(
          get_metric_fn=_val_top1, n=1, keep_checkpoints_without_metrics=False
        ),
      ]
    )
    options = ocp.CheckpointManagerOptions(
      preservation_policy=keep,
      best_fn=_val_top1,  # Without it Orbax writes no scores; the policy decides what is kept.
      create=not read_only,
      read_only=read_only,
    )
    self._manager = ocp.CheckpointManager(
      self.folder, options=options, item_names=('state', 'progress')
    )

  def save(
    self, step: int, state: Any, progress: dict[str, Any], scores: dict[str, float] | None
  ) -> None:
    """Saves in the background; an error of the save before it is raised here."""
    self._manager.check_for_errors()
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
    )
    self._manager.save(step, args=args, metrics=scores, force=True)

  def latest(self) -> int | None:
    """Step of the latest checkpoint, or None."""
    return self._manager.latest_step()

  def best(self) -> int | None:
    """Step of the checkpoint with the best validation score, or None."""
    scored = [
      (_val_top1(metrics), step)
      for step in self._manager.all_steps()
      if (metrics := self._manager.metrics(step)) is not None
    ]
    return max(scored)[1] if scored else None

  def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    """The state and the progress of a step.

    Args:
      step: one of the steps kept.
      like: a state of the same structure, shapes, dtypes and shardings.

    Raises:
      UserError: when the checkpoint is damaged or belongs to another network.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(target), progress=ocp.args.JsonRestore()
    )
    try:
      restored = self._manager.restore(step, args=args)
    except Exception as error:  # Orbax raises many types, by what is damaged.
      reason = ' '.join(str(error).split())[:200]
      raise UserError(
        f'the checkpoint {self.folder / str(step)} cannot be read: it is damaged or belongs to '
        f'another network ({type(error).__name__}: {reason}); remove that folder to go back to the '
        'checkpoint before it, or choose another --workdir'
      ) from error
    return restored['state'], restored['progress']

  def close(self) -> None:
    """Waits for the last save; raises its error if it failed."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()
    self._manager.close()
