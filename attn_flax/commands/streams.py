"""Standard streams that a process was started without, or whose readers are gone."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


def open_missing() -> None:
  """Gives a process that was started without stdin, stdout or stderr silent ones.

  Else the first file that is opened takes the number of one, and what C++ prints goes into it.
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
  """Leads a stream that cannot be written to any more, and what it still holds, nowhere."""
  with contextlib.suppress(OSError, ValueError):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    stream.flush()


def flush() -> None:
  """Flushes both streams, before the interpreter does it and complains."""
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
  """Loses what is printed where nobody reads it or the disk is full, instead of failing."""
  before = sys.stdout, sys.stderr
  sys.stdout, sys.stderr = map(_Tolerant, before)
  try:
    yield
  finally:
    sys.stdout, sys.stderr = before
