"""Requests to stop by signals: acknowledged at once, and followed where no work is lost.

In a command, a separate thread, started by `watch_process`, receives signals, even while the main
thread compiles or waits for a long update. Inside `deferred`, the first signal is noted, and the
training loop saves before it ends. Everywhere else, where nothing is unsaved, and at the second
signal, the process ends at once. In a library call, without that thread, `deferred` notes the first
signal and passes the second one to the handler that was installed before.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# SLURM can be told to send SIGUSR1 before the time limit; SIGHUP comes when a terminal closes.
_NAMES = ('SIGINT', 'SIGTERM', 'SIGUSR1', 'SIGHUP')
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# Schedulers may send one request twice, to the process and to its group, milliseconds apart.
_SAME_REQUEST_SECONDS = 0.5


class Stopped(Exception):  # noqa: N818
  """The run was asked to stop; all of its work is saved."""

  def __init__(self, message: str, number: int = signal.SIGTERM):
    """Makes the exception for a signal, by its number."""
    super().__init__(message)
    self.number = number


class Stop:
  """A request to stop.

  Attributes:
    asked: number of the first signal to this process or another one of its run; None before.
    is_deferring: whether the training loop follows the first signal; else the process ends.
    forward: (number of a signal, whether this process ends now) -> tells the other processes of the
      run; after a first signal, it decides how the run stops. None in a run of one process.
  """

  asked: int | None = None
  is_deferring = False
  forward: Callable[[int, bool], None] | None = None

  def __init__(self, leave: Callable[[int], None]):
    """`leave` is called with the number of a signal that ends the process at once."""
    self._leave = leave
    self._at: float | None = None  # When the first signal came to this process.
    self._lock = threading.RLock()  # A signal handler may interrupt the thread that holds it.

  def hear(self, number: int) -> None:
    """Handles a signal: notes it, or ends the process."""
    with self._lock:
      first, now = self._at is None, time.monotonic()
      if self._at is None:
        self._at = now
      # A second Ctrl-C is meant, but a scheduler may send one request twice.
      elif number == self.asked != signal.SIGINT and now - self._at < _SAME_REQUEST_SECONDS:
        return
      stays = first and (self.is_deferring or self.forward is not None)
    if stays or self.forward is None:
      self.note(number, aloud=stays)
    if self.forward is not None:
      self.forward(number, not stays)
    if not stays:
      self.leave(number)

  def note(self, number: int, *, aloud: bool = True) -> None:
    """Notes the first request, whichever process it came to; `aloud`: prints a line, too."""
    with self._lock:
      if self.asked is not None:
        return
      self.asked = number
    if aloud:
      _say('stopping after this update; a second signal ends the run at once')

  def leave(self, number: int | None) -> None:
    """Ends the process at once, by the signal of a number; None: SIGTERM."""
    self._leave(number or signal.SIGTERM)

  def answer(self, message: str) -> Stopped:
    """The exception to raise once everything is saved."""
    return Stopped(message, self.asked or signal.SIGTERM)

  @contextlib.contextmanager
  def deferred(self) -> Iterator['Stop']:
    """Leaves the first signal to the body, which reads `asked`.

    Raises:
      Stopped: after the body, where it ignored a signal; only in a run of one process.
    """
    with self._lock:
      self.is_deferring = True
    try:
      yield self
    finally:
      with self._lock:
        self.is_deferring = False
    if self.asked is not None and self.forward is None:
      raise self.answer('stopped')


_watching: Stop | None = None


def watch_process() -> None:
  """Handles signals from now on until the process ends; call it in a command's main thread."""
  global _watching
  _watching = stop = Stop(_end_process)
  read, write = os.pipe()
  os.set_blocking(write, False)
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  for number in SIGNALS:
    if not _is_ignored(number):
      # The number is written to the pipe before this handler, which only replaces the default one.
      signal.signal(number, lambda number, frame: None)

  def listen() -> None:
    while content := os.read(read, 1):
      if content[0] in SIGNALS:
        stop.hear(content[0])

  threading.Thread(target=listen, daemon=True, name='stop').start()


def watching() -> Stop | None:
  """The `Stop` of `watch_process`; None where that was not called."""
  return _watching


@contextlib.contextmanager
def deferred() -> Iterator[Stop]:
  """Notes the first signal during the body, see the docstring of this module.

  Raises:
    Stopped: after the body, where it ignored a signal; only in a run of one process.
  """
  if _watching is not None:
    with _watching.deferred() as stop:
      yield stop
    return
  before: dict[int, Any] = {}

  def leave(number: int) -> None:
    signal.signal(number, before[number])
    signal.raise_signal(number)

  def handle(number: int, frame: FrameType | None) -> None:
    stop.hear(number)

  stop = Stop(leave)
  if threading.current_thread() is threading.main_thread():  # Others may not set handlers.
    for number in SIGNALS:
      if not _is_ignored(number):
        before[number] = signal.signal(number, handle)
  try:
    with stop.deferred():
      yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _is_ignored(number: int) -> bool:
  """Whether a signal was set to be ignored, as by `nohup`; Ctrl-C never counts as ignored."""
  return number != signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN


def _end_process(number: int) -> None:
  """Ends the process at once, without a traceback or a cleanup that could hang or crash."""
  _say(f'stopped by {signal.Signals(number).name}; what was saved before is whole')
  # Buffered output should be printed, but may not delay the end for long.
  if sys.stdout is not None:
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(0.5)
  os._exit(128 + number)


def _say(text: str) -> None:
  """Prints a line on stderr, without buffers and locks that another thread may hold."""
  begin = '\n' if os.isatty(2) else ''  # Below a progress bar.
  with contextlib.suppress(OSError):  # The terminal may be gone.
    os.write(2, f'{begin}{text}\n'.encode())
