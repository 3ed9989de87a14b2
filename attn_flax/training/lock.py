"""The lock on a run or study folder: one process writes there at a time.

The kernel releases it when the process ends, however it ends. Readers do not need it.
"""

import contextlib
import errno
import json
import os
import pathlib
import platform
import sys
from collections.abc import Iterator

from attn_flax.errors import UserError

try:
  import fcntl
except ImportError:  # Windows.
  fcntl = None  # type: ignore[assignment]

_NAME = '.lock'
_TAKEN = (errno.EAGAIN, errno.EACCES)


class Locked(UserError):
  """Another process writes to the folder."""


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a folder, which is made if it is missing.

  On a file system without locks, a warning on stderr says so, and the body runs without one. A new
  folder in which nothing was written is removed again.

  Raises:
    Locked: where another process holds the lock; the message names that process.
    UserError: where the folder cannot be written.
  """
  path = folder / _NAME
  # The folders to be made, the innermost first.
  new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
  file = _open(path)
  try:
    _take(file, path)
    while not _is_at(file, path):  # Another process has removed the file meanwhile.
      os.close(file)
      file = _open(path)
      _take(file, path)
    yield
  finally:
    if new and [entry.name for entry in folder.glob('*')] == [_NAME]:  # Nothing was written.
      with contextlib.suppress(OSError):
        path.unlink()
        for made in new:
          made.rmdir()
    os.close(file)


def _open(path: pathlib.Path) -> int:
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  except OSError as error:
    raise UserError(
      f'the folder {path.parent} cannot be written ({error.strerror}); choose another --workdir'
    ) from None


def _is_at(file: int, path: pathlib.Path) -> bool:
  """Whether an open file is the one at a path."""
  with contextlib.suppress(OSError):
    return os.path.samestat(os.fstat(file), os.stat(path))
  return False


def _take(file: int, path: pathlib.Path) -> None:
  try:
    if fcntl is None:
      raise OSError(errno.ENOSYS, 'this system has none')
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in _TAKEN:
      raise Locked(
        f'{path.parent} is being written by {_holder(path)}; wait for it, end it, or choose '
        'another --workdir'
      ) from None
    print(
      f'warning: {path.parent} cannot be locked ({error.strerror}); start no second process there',
      file=sys.stderr,
    )
    return
  content = {'pid': os.getpid(), 'host': platform.node()}
  with contextlib.suppress(OSError):  # On a full disk, the next file that is written reports it.
    os.truncate(file, 0)
    os.pwrite(file, (json.dumps(content) + '\n').encode(), 0)


def _holder(path: pathlib.Path) -> str:
  try:
    content = json.loads(path.read_bytes())
    return f'process {content["pid"]} on {content["host"]}'
  except (OSError, ValueError, KeyError, TypeError):  # The other process is just writing it.
    return 'another process'
