"""The folder of prepared datasets, and a lock so that only one process at a time writes one."""

import contextlib
import errno
import fcntl
import io
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import TextIO

from attn_flax.errors import UserError
from attn_flax.files import local_path

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)


def root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """The folder of datasets: `data_dir`, else $TFDS_DATA_DIR, else tensorflow-datasets' default.

  Raises:
    UserError: the path is not one of the file system.
  """
  if data_dir:
    return local_path(data_dir, '--config.data.dir')
  if folder := os.environ.get('TFDS_DATA_DIR'):
    return local_path(folder, 'TFDS_DATA_DIR')
  import tensorflow_datasets as tfds  # Takes half a second.

  return local_path(tfds.core.constants.DATA_DIR, 'the default folder of datasets')


def lock(folder: pathlib.Path) -> TextIO:
  """Waits for a folder's lock, which is held until the returned file is closed or the process ends.

  Raises:
    UserError: the folder cannot be written to.
  """
  with explained(folder):
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / '.lock', 'w')
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f'Waiting for another process that prepares {folder}.', file=sys.stderr)
      fcntl.flock(file, fcntl.LOCK_EX)
  return file


def clear_leftovers(folder: pathlib.Path) -> None:
  """Removes what a killed preparation left behind; the caller must hold the folder's lock."""
  for leftover in [*folder.glob('incomplete.*'), *folder.glob('*/incomplete.*')]:
    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@contextlib.contextmanager
def explained(folder: pathlib.Path) -> Iterator[None]:
  """Turns errors of a full disk or a folder that cannot be written to into `UserError`."""
  try:
    yield
  except UserError:
    raise
  # Writers in C++ report a full disk as RuntimeError, and others wrap the error: its text tells.
  except (OSError, RuntimeError) as error:
    number = getattr(error, 'errno', None)
    texts = (*map(os.strerror, _NO_SPACE), 'Not enough disk space')
    if number in _NO_SPACE or any(text in str(error) for text in texts):
      raise UserError(
        f'no space is left on the disk for {str(folder)!r}: free some, or name another folder with '
        '--config.data.dir=/path/to/folder or the environment variable TFDS_DATA_DIR'
      ) from error
    if number in _NOT_WRITABLE:
      raise UserError(
        f'cannot write the dataset to {str(folder)!r} ({os.strerror(number)}): name a folder that '
        'you may write to with --config.data.dir=/path/to/folder or the environment variable '
        'TFDS_DATA_DIR'
      ) from error
    raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences the progress messages of tensorflow-datasets; errors are still shown."""

  def is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR

  logger = logging.getLogger('absl')
  logger.addFilter(is_error)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logger.removeFilter(is_error)
