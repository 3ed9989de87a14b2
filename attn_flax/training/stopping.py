"""Requests to stop: signals, noted at once and answered where no work is lost.

In a command, a thread of its own hears signals: it answers also while the main thread compiles or
waits for a long update. `watch_process` starts it. Inside `deferred` the first signal is noted, and
the training loop saves before it leaves; everywhere else, where nothing is unsaved, and at the
second signal, the process ends at once. In a library call, where no command watches, `deferred`
notes the first signal and gives the second one back to the handler of before.
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

# SIGUSR1 is how SLURM warns of the time limit; SIGHUP comes when a terminal closes.
_NAMES = ('SIGINT', 'SIGTERM', 'SIGUSR1', 'SIGHUP')
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# Schedulers send one request twice, to the process and to its group, milliseconds apart.
_SAME_REQUEST_SECONDS = 0.5


class Stopped(Exception):  # noqa: N818
  """The run was asked to stop; all of its work is saved."""

  def __init__(self, message: str, number: int = signal.SIGTERM):
    """`number` is the signal's."""
    super().__init__(message)
    self.number = number


class Stop:
  """One request to stop.

  Attributes:
    asked: number of the first signal, of this process or another one of its run; or None.
    is_deferring: whether the loop answers the first signal.
    forward: lets the other processes of a run know of a signal: called with its number, and with
      whether this process leaves now. After the first signal it is left to it how the run stops.
      None where there are no others.
  """

  asked: int | None = None
  is_deferring = False
  forward: Callable[[int, bool], None] | None = None

  def __init__(self, leave: Callable[[int], None]):
    """`leave` is called with the number of a signal that shall end the process now."""
    self._leave = leave
    self._at: float | None = None  # When the first signal came to this process.
    self._lock = threading.RLock()  # A handler may interrupt the thread that holds it.

  def hear(self, number: int) -> None:
    """Notes a signal, or leaves."""
    with self._lock:
      first, now = self._at is None, time.monotonic()
      if self._at is None:
        self._at = now
      # A person who presses Ctrl-C twice means it; a scheduler repeats itself.
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
    """Notes the first request, whichever process it came to; `aloud`: and says so."""
    with self._lock:
      if self.asked is not None:
        return
      self.asked = number
    if aloud:
      _say('stopping after this update; once more to leave now')

  def leave(self, number: int | None) -> None:
    """Ends the process now."""
    self._leave(number or signal.SIGTERM)

  def answer(self, message: str) -> Stopped:
    """What to raise once all is saved."""
    return Stopped(message, self.asked or signal.SIGTERM)

  @contextlib.contextmanager
  def deferred(self) -> Iterator['Stop']:
    """Leaves the answer to the first signal to the body, which asks for `asked`.

    Raises:
      Stopped: after the body, where it has not answered; of several processes, none does so alone.
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
  """Answers signals from now on until the process ends; for the main thread of a command."""
  global _watching
  _watching = stop = Stop(_end_process)
  read, write = os.pipe()
  os.set_blocking(write, False)
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  for number in SIGNALS:
    if not _is_ignored(number):
      # The number reaches the pipe before this handler runs, which only keeps the default away.
      signal.signal(number, lambda number, frame: None)

  def listen() -> None:
    while content := os.read(read, 1):
      if content[0] in SIGNALS:
        stop.hear(content[0])

  threading.Thread(target=listen, daemon=True, name='stop').start()


def watching() -> Stop | None:
  """What hears the signals of this process; None where no command watches."""
  return _watching


@contextlib.contextmanager
def deferred() -> Iterator[Stop]:
  """Notes the first signal while it is entered, see the head of this file.

  Raises:
    Stopped: after the body, where a signal came that the body has not answered.
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
  if threading.current_thread() is threading.main_thread():  # No other may take signals over.
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
  """Whether somebody wants a signal ignored, as `nohup` does; Ctrl-C is always heard."""
  return number != signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN


def _end_process(number: int) -> None:
  """Ends the process at once: no traceback, no cleaning up that could hang or crash."""
  _say(f'stopped by {signal.Signals(number).name}; what was saved before is whole')
  # What was printed and lies in a buffer shall arrive, but nothing may hold this up.
  if sys.stdout is not None:
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(0.5)
  os._exit(128 + number)


def _say(text: str) -> None:
  """Prints a line on stderr, past all buffers and locks that another thread may hold."""
  begin = '\n' if os.isatty(2) else ''  # Below a progress bar.
  with contextlib.suppress(OSError):  # The terminal may be gone.
    os.write(2, f'{begin}{text}\n'.encode())
