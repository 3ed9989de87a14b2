"""Standard streams that a process was started without, or that nobody reads any more."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


def open_missing() -> None:
  """Opens the null device as stdin, stdout or stderr where the process was started without it.

  Otherwise the next file that is opened would get its descriptor, and C++ code would print into it.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # Takes the lowest number that is free.
  for name in ('stdout', 'stderr'):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, 'w'))


def silence(stream: TextIO) -> None:
  """Redirects a stream that can no longer be written to, with its buffer, to the null device."""
  with contextlib.suppress(OSError, ValueError):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    stream.flush()


def flush() -> None:
  """Flushes stdout and stderr; at exit the interpreter would report an error in doing so."""
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except (OSError, ValueError):
      silence(stream)


class _Tolerant:
  """A text stream whose writes never fail."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def write(self, text: str) -> int:
    try:
      return self._stream.write(text)
    except OSError:
      silence(self._stream)
      return len(text)

  def flush(self) -> None:
    try:
      self._stream.flush()
    except OSError:
      silence(self._stream)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


@contextlib.contextmanager
def tolerant() -> Iterator[None]:
  """Lets prints succeed even if nobody reads them or the disk is full; their text is then lost."""
  before = sys.stdout, sys.stderr
  sys.stdout, sys.stderr = map(_Tolerant, before)
  try:
    yield
  finally:
    sys.stdout, sys.stderr = before
