"""Finds a checkpoint that is not damaged, while the run may be deleting old ones."""

import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from attn_flax.errors import UserError
from attn_flax.training.distributed import processes

_Read = TypeVar('_Read')
_PAUSE = 0.5  # Seconds that deleting a folder takes at most.


class Damaged(UserError):
  """A checkpoint that cannot be read, or differs from its digests."""


class Gone(Exception):  # noqa: N818
  """A checkpoint that was listed has since been deleted by its run."""


def is_gone(checkpoint: pathlib.Path) -> bool:
  """Whether a checkpoint that looks damaged does so because it is being deleted."""
  time.sleep(_PAUSE)
  return not checkpoint.exists()


def first_whole(
  folder: pathlib.Path, steps: Sequence[int], read: Callable[[int], _Read]
) -> tuple[_Read, int]:
  """Reads the first of some checkpoints that is not damaged.

  Each damaged one before it is reported on stderr; of several processes, by process 0 alone.

  Args:
    folder: the folder of the checkpoints.
    steps: their steps, in the order of preference.
    read: (step) -> what is read of it; raises `Damaged`.

  Returns:
    What `read` returns, and the step.

  Raises:
    Gone: where one of them has been deleted meanwhile.
    UserError: where all are damaged.
  """
  damages = []
  for step in steps:
    try:
      found = read(step)
    except Damaged as error:
      if is_gone(folder / str(step)):
        raise Gone from None
      damages.append(str(error))
      continue
    for damage in damages if processes.is_first() else ():
      print(f'warning: {damage}; checkpoint {step} is used instead', file=sys.stderr)
    return found, step
  raise UserError(
    f'{"; ".join(damages)}; no checkpoint is whole: restore {folder} from a copy, or train again '
    'with --restart'
  )
