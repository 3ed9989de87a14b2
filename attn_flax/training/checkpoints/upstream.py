"""Additions to Orbax: a policy for which checkpoints to keep, and one error for one damage."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from orbax.checkpoint import checkpoint_managers


class _Step(Protocol):
  """A checkpoint, as Orbax describes it to a policy."""

  step: int


class _DrainingLoop(asyncio.SelectorEventLoop):
  """An event loop that waits for its tasks before it closes."""

  def close(self) -> None:
    """Waits for all tasks, then closes the loop."""
    if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
      self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    super().close()


@contextlib.contextmanager
def draining_loops() -> Iterator[None]:
  """Makes the event loops that are created in the body wait for their tasks before they close.

  Orbax reads each array in a task of a new loop, and closes the loop at the first error; the other
  tasks are then destroyed, each with a traceback on stderr, beside the error that matters. Orbax's
  `run_sync` should wait for them; as long as it does not, this does.
  https://github.com/google/orbax/blob/main/checkpoint/orbax/checkpoint/_src/asyncio_utils.py
  """
  original = asyncio.new_event_loop
  asyncio.new_event_loop = _DrainingLoop
  try:
    yield
  finally:
    asyncio.new_event_loop = original


@dataclasses.dataclass(frozen=True)
class Preserved(checkpoint_managers.PreservationPolicy):
  """Makes Orbax keep the steps that a function chooses.

  Attributes:
    kept: (all steps, in ascending order) -> the steps to keep.
  """

  kept: Callable[[Sequence[int]], set[int]]

  def should_preserve(self, checkpoints: Sequence[_Step], *, context: object) -> list[bool]:
    """Whether to keep each of some checkpoints, as Orbax's `PreservationPolicy` defines it."""
    del context
    steps = [info.step for info in checkpoints]
    kept = self.kept(steps)
    return [step in kept for step in steps]
