"""The speed of a run, and the time left."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator

_RECENT = 100  # The speed is measured over so many calls of `move`.


class Pace:
  """Measures the speed of the updates, and estimates the time left.

  Make it when the training step is compiled. Evaluations are timed apart from updates; the first
  one includes the compilation of its program, so only later ones predict the next.
  """

  def __init__(
    self,
    start: int,
    total: int,
    eval_every: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """Starts the clock.

    Args:
      start: number of updates done before.
      total: number of updates of the run.
      eval_every: updates between evaluations, one of which follows the last update; None: no
        evaluations.
      clock: returns seconds.
    """
    self._total, self._eval_every, self._clock = total, eval_every, clock
    self._evaluations: list[float] = []
    self._apart = 0.0  # Seconds of all evaluations.
    self._changes = collections.deque([(clock(), start)], maxlen=_RECENT)

  def move(self, done: int) -> None:
    """Notes that `done` updates are done."""
    if done > self._changes[-1][1]:
      self._changes.append((self._clock() - self._apart, done))

  @contextlib.contextmanager
  def evaluating(self) -> Iterator[None]:
    """Times the body as an evaluation."""
    began = self._clock()
    yield
    self._evaluations.append(self._clock() - began)
    self._apart += self._evaluations[-1]

  def rate(self) -> float | None:
    """Recent updates per second, without evaluations; None before an update is done."""
    (before, start), (after, done) = self._changes[0], self._changes[-1]
    return (done - start) / (after - before) if after > before else None

  def left(self) -> float | None:
    """Seconds to the end of the run; None where not known, or after the last update."""
    rate, done = self.rate(), self._changes[-1][1]
    if rate is None or done >= self._total:
      return None
    seconds = (self._total - done) / rate
    if self._eval_every is not None and len(self._evaluations) > 1:
      to_come = -(-self._total // self._eval_every) - done // self._eval_every
      seconds += to_come * self._evaluations[-1]
    return seconds
