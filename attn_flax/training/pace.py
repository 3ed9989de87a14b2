"""How fast a run goes, and how long the rest of it takes."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator

_RECENT = 100  # Changes of what is done that the speed is measured over.


class Pace:
  """The speed of the updates that are done, and the time left.

  It begins when the training step is compiled. Evaluations are timed apart from updates; the first
  one compiles a program of its own and says nothing about the later ones.
  """

  def __init__(
    self,
    start: int,
    total: int,
    eval_every: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """The clock starts.

    Args:
      start: the updates that are done before.
      total: the updates of the run.
      eval_every: updates between evaluations, one of which follows the last update; None: there
        are none.
      clock: returns seconds.
    """
    self._total, self._eval_every, self._clock = total, eval_every, clock
    self._evaluations: list[float] = []
    self._apart = 0.0  # Seconds of all evaluations.
    self._changes = collections.deque([(clock(), start)], maxlen=_RECENT)

  def move(self, done: int) -> None:
    """Notes how many updates are done."""
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
    """Updates per second of late, evaluations apart; None before the first one is done."""
    (before, start), (after, done) = self._changes[0], self._changes[-1]
    return (done - start) / (after - before) if after > before else None

  def left(self) -> float | None:
    """Seconds to the end of the last evaluation; None where it is not known, or next to nothing."""
    rate, done = self.rate(), self._changes[-1][1]
    if rate is None or done >= self._total:
      return None
    seconds = (self._total - done) / rate
    if self._eval_every is not None and len(self._evaluations) > 1:
      to_come = -(-self._total // self._eval_every) - done // self._eval_every
      seconds += to_come * self._evaluations[-1]
    return seconds
