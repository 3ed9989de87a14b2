"""Files that a user names or brings: only regular ones are read, and only up to a size."""

import errno
import os
import pathlib
import re
import stat
import unicodedata

from attn_flax.errors import UserError

_SCHEME = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*://')  # Of buckets: gs://, s3://.
MOST_BYTES = 2**30  # Of one file.
MAX_PIXELS = 178_956_970  # Of one image; beyond it Pillow opens none.


def is_regular(path: str | os.PathLike[str]) -> bool:
  """Whether a path leads to a file, through links or not: no pipe, device, socket or folder."""
  try:
    return stat.S_ISREG(os.stat(path).st_mode)
  except OSError:
    return False


def read_file(path: str | os.PathLike[str]) -> bytes:
  """The content of a regular file.

  Raises:
    OSError: when it cannot be read, is too large, or is something else: opening a pipe would wait
      for ever, and reading a device may never end.
  """
  file = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0))
  with open(file, 'rb') as opened:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
      raise OSError(errno.EINVAL, 'it is no regular file', str(path))
    if status.st_size > MOST_BYTES:
      text = f'it has {status.st_size} bytes, and {MOST_BYTES} are the limit'
      raise OSError(errno.EFBIG, text, str(path))
    return opened.read()


def local_path(path: str | os.PathLike[str], what: str = 'the path') -> pathlib.Path:
  """A path as a user writes it, with the home folder for its '~'; `what` is its name in an error.

  Raises:
    UserError: for a bucket, and for the home of a user that is not known.
  """
  text = os.fspath(path)
  if _SCHEME.match(text):
    raise UserError(
      f'{what} {text} is no path of a file system; mount the bucket as a folder, and name that'
    )
  if '\0' in text:
    raise UserError(f'{what} {text!r} holds a null character; leave it out')
  try:
    return pathlib.Path(text).expanduser()
  except RuntimeError:
    raise UserError(f'{what} {text} names an unknown home folder; write the whole path') from None


def describe(path: pathlib.Path) -> str:
  """Why a path cannot be read as a file, for an error."""
  return 'is no regular file' if path.exists() else 'does not exist'


def composed(name: str) -> str:
  """A name in the one Unicode form in which names that look alike are alike."""
  return unicodedata.normalize('NFC', name)
