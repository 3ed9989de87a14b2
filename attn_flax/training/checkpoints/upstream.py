"""What Orbax lacks: a policy of one's own, and one error for one damage."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from orbax.checkpoint import checkpoint_managers


class _DrainingLoop(asyncio.SelectorEventLoop):
  """An event loop that waits for its tasks before it closes."""

  def close(self) -> None:
    """Waits, then closes."""
    if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
      self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    super().close()


@contextlib.contextmanager
def draining_loops() -> Iterator[None]:
  """Has the event loops that are made meanwhile wait for their tasks before they close.

  Orbax reads each array by a task of a fresh loop, and closes the loop at the first error: the
  other tasks then end as garbage, each with a traceback on stderr, beside the one error that
  counts. Waiting belongs into its `run_sync`; until it is there, this stands in for it.
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
  """Has Orbax keep the steps that a function chooses."""

  kept: Callable[[Sequence[int]], set[int]]

  def should_preserve(self, checkpoints, *, context):
    """See `PreservationPolicy`."""
    del context
    steps = [info.step for info in checkpoints]
    kept = self.kept(steps)
    return [step in kept for step in steps]
