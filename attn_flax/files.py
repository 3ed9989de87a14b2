"""Files that a user names: only regular files are read, and only up to a maximum size."""

import errno
import os
import pathlib
import re
import stat
import unicodedata

from attn_flax.errors import UserError

_SCHEME = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*://')  # URLs of buckets, such as gs:// and s3://.
MOST_BYTES = 2**30  # Of one file.


def is_regular(path: str | os.PathLike[str]) -> bool:
  """Whether a path is a file, or a link to one; pipes, devices, sockets and folders are not."""
  try:
    return stat.S_ISREG(os.stat(path).st_mode)
  except OSError:
    return False


def read_file(path: str | os.PathLike[str]) -> bytes:
  """The content of a regular file.

  Raises:
    OSError: the file cannot be read, is too large, or is not regular: opening a pipe would wait
      forever, and reading a device may never end.
  """
  file = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0))
  with open(file, 'rb') as opened:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
      raise OSError(errno.EINVAL, 'it is not a regular file', str(path))
    if status.st_size > MOST_BYTES:
      text = f'it has {status.st_size} bytes, more than the limit of {MOST_BYTES}'
      raise OSError(errno.EFBIG, text, str(path))
    return opened.read()


def local_path(path: str | os.PathLike[str], what: str = 'the path') -> pathlib.Path:
  """Expands '~' in a path that a user wrote, and checks that it is a path of the file system.

  Args:
    path: the path.
    what: what an error message calls it.

  Raises:
    UserError: the path is the URL of a bucket, holds a null character, or names the home folder of
      an unknown user.
  """
  text = os.fspath(path)
  if _SCHEME.match(text):
    is_page = text.lower().startswith(('http:', 'https:', 'ftp:'))
    fix = (
      'download it and name the copy' if is_page else 'mount the bucket as a folder and name that'
    )
    raise UserError(f'{what} {text} is not a path of the file system; {fix}')
  if '\0' in text:
    raise UserError(f'{what} {text!r} holds a null character; leave it out')
  try:
    return pathlib.Path(text).expanduser()
  except RuntimeError:
    raise UserError(f'{what} {text} names an unknown home folder; write the whole path') from None


def user_cache() -> pathlib.Path | None:
  """The folder of what may be kept between commands: $XDG_CACHE_HOME/attn_flax, else in ~/.cache.

  None for a user without a home folder.
  """
  try:
    base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  except RuntimeError:
    return None
  return pathlib.Path(base) / 'attn_flax'


def describe(path: pathlib.Path) -> str:
  """Why a path cannot be read as a file, for an error."""
  return 'is not a regular file' if path.exists() else 'does not exist'


def composed(name: str) -> str:
  """A name in the Unicode form NFC, so that names that look the same compare equal."""
  return unicodedata.normalize('NFC', name)
