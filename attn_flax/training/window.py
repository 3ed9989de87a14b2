"""The metrics of the updates since the last line of the log."""

import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from attn_flax.errors import UserError
from attn_flax.training.artifacts import Json

Metrics = dict[str, np.float32]
# Parts that the device may have before it: enough to keep it busy, and few enough for a progress
# bar to be right and for a stop to be soon.
_MOST_WAITING = 8


class Window:
  """The metrics of each part of a batch since the last line of the log, and the time they took.

  They stay on the device until they are read, so that the host does not wait for each update. A run
  that stops stores what it has, and the first line after it is that of a run which did not stop.
  """

  def __init__(self, stored: Json | None = None):
    """`stored` is what `store` returned before the run stopped; the clock starts."""
    stored = stored or {'seconds': 0.0, 'metrics': []}
    self._read: list[Metrics] = [
      {name: np.float32(value) for name, value in metrics.items()} for metrics in stored['metrics']
    ]
    self._unread: list[Mapping[str, jax.Array]] = []
    self._seconds = stored['seconds']
    self._began = time.perf_counter()

  def add(self, metrics: Mapping[str, jax.Array]) -> None:
    """Adds the metrics of one part of a batch, and waits where too many are still to come."""
    self._unread.append(metrics)
    jax.block_until_ready(self._unread[-_MOST_WAITING - 1 : -_MOST_WAITING])

  def waiting(self) -> int:
    """How many parts the device has not finished; they are the latest ones."""
    recent = self._unread[-_MOST_WAITING:]
    return sum(not _is_ready(next(iter(metrics.values()))) for metrics in recent)

  def finish(self) -> Iterator[int]:
    """Waits for the device; yields behind each part how many are still to come."""
    while waiting := self.waiting():
      jax.block_until_ready(self._unread[-waiting])
      yield self.waiting()

  def read(self) -> list[Metrics]:
    """Waits for the device; the metrics in order."""
    self._read += jax.device_get(self._unread)
    self._unread = []
    return self._read

  def lap(self) -> float:
    """The seconds since the last lap; they count for this window's rate, and later ones do not."""
    now = time.perf_counter()
    seconds, self._began = now - self._began, now
    self._seconds += seconds
    return seconds

  def means(self) -> dict[str, float]:
    """The mean of each metric."""
    values = self.read()
    # The first parts may be of a run stopped when more was logged: top-5 of five classes, once.
    return {name: float(np.mean([metrics[name] for metrics in values])) for name in values[-1]}

  def rate(self, images: int) -> float:
    """Images per second up to the last lap, for parts of `images` images."""
    return len(self._read) * images / self._seconds

  def clear(self) -> None:
    """Begins anew, as behind a line of the log."""
    self._read, self._seconds, self._began = [], 0.0, time.perf_counter()

  def store(self) -> dict[str, object]:
    """What goes into a checkpoint, as JSON values."""
    metrics = [{name: float(value) for name, value in part.items()} for part in self.read()]
    return {'seconds': self._seconds, 'metrics': metrics}


def _is_ready(array: jax.Array) -> bool:
  return array.is_ready()  # type: ignore[attr-defined]


def check_finite(
  values: Sequence[Mapping[str, float | np.floating]],
  update: int,
  accumulate: int,
  saved: int,
  workdir: pathlib.Path,
) -> None:
  """Raises `UserError` at the first part of a window, up to `update`, that is not finite."""
  for i, metrics in enumerate(values):
    broken = [name for name, value in metrics.items() if not np.isfinite(value)]
    if broken:
      name = min(broken, key=lambda name: 'loss' not in name)  # The loss says most.
      step = update - (len(values) - 1 - i) // accumulate
      good = f'the last good checkpoint is {workdir}/checkpoints/{saved}'
      raise UserError(
        f'{name} is {metrics[name]} at update {step}; '
        f'{good if saved else "there is no checkpoint yet"}; lower optimizer.lr_per_256 or set '
        'train.clip_norm, in a new --workdir'
      )
