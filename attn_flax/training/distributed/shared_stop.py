"""Stops the processes of a run together, after the same update.

A thread of each process polls JAX's coordination service. Once one process is asked to stop, the
threads tell each other how many updates their processes have made, while no process begins another
update; all stop after the update that follows the largest of these numbers. If one process fails,
all end at once.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import jax

from attn_flax.training.stopping import Stop

_PAUSE = 0.5  # Seconds between two polls.
_SHORT_PAUSE = 0.05  # Seconds between two polls while the processes agree on the last update.
_LINGER = 2.0  # Process 0 hosts the service, and ends so many seconds after the others.
_FOLDER = 'attn_flax/stop'  # Of the keys in the service.
_NOTHING = 'nothing'  # The value of a process that has nothing unsaved, as it is not training.


class CoordinationClient(Protocol):
  """The client of JAX's coordination service, as far as it is used here."""

  def key_value_set(self, key: str, value: str) -> None: ...  # noqa: D102

  def key_value_dir_get(self, key: str) -> Sequence[tuple[str, str]]: ...  # noqa: D102

  def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...  # noqa: D102

  def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> object: ...  # noqa: D102


class SharedStop:
  """The part of one process in the common stop of a run."""

  def __init__(
    self,
    client: CoordinationClient,
    process: int,
    count: int,
    stop: Stop,
    end: Callable[[str, int], object],
  ):
    """Starts the thread.

    Args:
      client: the client of the coordination service.
      process: the number of this process.
      count: number of processes.
      stop: hears the signals of this process.
      end: (line, exit code) -> ends this process.
    """
    self._end = end
    self._client = client
    self._process = process
    self._count = count
    self._stop = stop
    self._lock = threading.Lock()
    self._update = 0  # The last update made.
    self._last: int | None = None  # The update to stop after.
    self._answered = False
    self._asked: int | None = None
    self._leaving: int | None = None
    self._failure: str | None = None
    self._told: set[str] = set()
    self._is_told = threading.Event()
    self._woken = threading.Event()
    self._closed = False
    self._thread = threading.Thread(target=self._watch, daemon=True, name='shared stop')
    stop.forward = self.forward
    self._thread.start()

  def forward(self, number: int, now: bool) -> None:
    """Tells the other processes of a signal.

    Args:
      number: number of the signal.
      now: whether this process ends now: the others are then told to end, too, before this returns.
    """
    if now:
      self._leaving = number
      self._tell_and_wait()
    else:
      self._asked = number
      self._woken.set()

  def _tell_and_wait(self) -> None:
    self._woken.set()
    self._is_told.wait(_LINGER)
    time.sleep(_LINGER if self._process == 0 else 2 * _PAUSE)  # Process 0 ends last.

  def reached(self, update: int) -> bool:
    """Whether the run stops after an update; the same answer in all processes."""
    with self._lock:
      self._update = update
      self._answered = self._last is not None and update >= self._last
      return self._answered

  def answer(self) -> None:
    """Notes that the processes have agreed to stop without `reached`."""
    self._answered = True

  def fail(self, line: str, code: int) -> None:
    """Ends the other processes before this one fails, and waits for them.

    Args:
      line: the error message that they print.
      code: their exit code.
    """
    self._failure = json.dumps([line, code])
    self._tell_and_wait()

  def close(self) -> None:
    """Ends the thread; call it before the client shuts down."""
    self._closed = True
    self._woken.set()
    self._thread.join(_LINGER)

  def _watch(self) -> None:
    try:
      while not self._closed:
        self._woken.wait(_PAUSE)
        self._woken.clear()
        if asked := self._news().get('asked'):
          if self._last is None:
            self._agree(int(next(iter(asked.values()))))
          elif not (self._answered or self._stop.is_deferring):  # After the last update.
            self._leave(self._stop.asked)
    except jax.errors.JaxRuntimeError:
      pass  # Process 0 is gone, and JAX ends this process.

  def _news(self) -> dict[str, dict[int, str]]:
    """Writes this process's news to the service; returns all news, {what: {process: value}}."""
    if self._asked is not None:
      self._tell('asked', str(self._asked))
    if self._leaving is not None:
      self._tell('leaves', str(self._leaving))
    if self._failure is not None:
      self._tell('failed', self._failure)
    if self._is_leaving:
      self._is_told.set()
    found: dict[str, dict[int, str]] = {}
    for key, value in self._client.key_value_dir_get(f'{_FOLDER}/'):
      what, process = key.split('/')[-2:]
      found.setdefault(what, {})[int(process)] = value
    if 'failed' in found and not self._is_leaving:
      self._end(*json.loads(next(iter(found['failed'].values()))))
    if 'leaves' in found and not self._is_leaving:
      self._leave(int(next(iter(found['leaves'].values()))))
    return found

  @property
  def _is_leaving(self) -> bool:
    return self._leaving is not None or self._failure is not None

  def _tell(self, what: str, value: str) -> None:
    if what not in self._told:
      self._client.key_value_set(f'{_FOLDER}/{what}/{self._process}', value)
      self._told.add(what)

  def _agree(self, number: int) -> None:
    """Finds the update to stop after; ends this process where one is not training."""
    self._stop.note(number)
    with self._lock:
      self._tell('made', str(self._update) if self._stop.is_deferring else _NOTHING)
      while len(made := self._news().get('made', {})) < self._count:
        if self._closed:
          return
        time.sleep(_SHORT_PAUSE)
      # All processes make each update together: where one has nothing to save, none has.
      if _NOTHING in made.values():
        self._leave(number)
        return
      self._last = 1 + max(map(int, made.values()))

  def _leave(self, number: int | None) -> None:
    if self._process == 0:
      time.sleep(_LINGER)
    if not self._closed:
      self._stop.leave(number)
