"""Turns the errors of Orbax into one line that says what failed and what to do."""

import contextlib
import pathlib
from collections.abc import Iterator

from attn_flax.errors import UserError
from attn_flax.training.checkpoints.upstream import draining_loops
from attn_flax.training.checkpoints.whole import Damaged
from attn_flax.training.distributed import processes


@contextlib.contextmanager
def saving(folder: pathlib.Path) -> Iterator[None]:
  """Turns an error of a save in a folder of checkpoints into a `UserError`.

  Raises:
    UserError: in place of whatever the body raises.
  """
  try:
    yield
  except Exception as error:  # Orbax raises many types, depending on what failed.
    processes.raise_lost(error)
    why, fix = reason(error), remedy(error)
  else:
    return
  saved = [int(path.name) for path in folder.glob('*') if path.name.isdigit()]
  before = f'the one before it, {max(saved)}, is whole' if saved else 'there is none before it'
  raise UserError(
    f'a checkpoint could not be saved in {folder} ({why}); {before}; {fix}, and give the same '
    'command again'
  )


@contextlib.contextmanager
def reading(checkpoint: pathlib.Path) -> Iterator[None]:
  """Turns an error while a checkpoint is read into `Damaged`.

  Raises:
    Damaged: in place of whatever the body raises.
  """
  with draining_loops():
    try:
      yield
    except Exception as error:  # Orbax raises many types, depending on what is damaged.
      processes.raise_lost(error)
      why = reason(error)
    else:
      return
  raise Damaged(
    f'the checkpoint {checkpoint} cannot be read: it is damaged or belongs to another network '
    f'({why})'
  )


def reason(error: BaseException) -> str:
  """The type and the beginning of the text of an error's first cause."""
  first = _first(error)
  return f'{type(first).__name__}: {" ".join(str(first).split())[:200]}'


def remedy(error: BaseException) -> str:
  """What a user can do about a save that failed."""
  if 'Too many open files' in str(_first(error)):
    return 'allow more open files (ulimit -n)'
  return 'make room there'


def _first(error: BaseException) -> BaseException:
  while error.__cause__ is not None:
    error = error.__cause__
  return error
