"""The metrics of the updates since the last line of the log."""

import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from attn_flax.errors import UserError
from attn_flax.training.artifacts import Json

Metrics = dict[str, np.float32]
# The most parts of batches queued on the device: enough to keep it busy, and few enough for an
# accurate progress bar and a prompt stop.
_MOST_WAITING = 8


class Window:
  """The metrics of each part of a batch since the last line of the log, and the time they took.

  They stay on the device until they are read, so that the host does not wait for each update. A run
  that is stopped stores them, so that its next line is that of a run that was not stopped.
  """

  def __init__(self, stored: Json | None = None):
    """Starts the clock; `stored` is what `store` returned before the run was stopped."""
    stored = stored or {'seconds': 0.0, 'metrics': []}
    self._read: list[Metrics] = [
      {name: np.float32(value) for name, value in metrics.items()} for metrics in stored['metrics']
    ]
    self._unread: list[Mapping[str, jax.Array]] = []
    self._seconds = stored['seconds']
    self._began = time.perf_counter()

  def add(self, metrics: Mapping[str, jax.Array]) -> None:
    """Adds the metrics of one part of a batch; waits while too many parts are queued."""
    self._unread.append(metrics)
    jax.block_until_ready(self._unread[-_MOST_WAITING - 1 : -_MOST_WAITING])

  def waiting(self) -> int:
    """The number of parts that the device has not finished; these are the latest ones."""
    recent = self._unread[-_MOST_WAITING:]
    return sum(not _is_ready(next(iter(metrics.values()))) for metrics in recent)

  def finish(self) -> Iterator[int]:
    """Waits for the device; yields, after each part, the number of parts left."""
    while waiting := self.waiting():
      jax.block_until_ready(self._unread[-waiting])
      yield self.waiting()

  def read(self) -> list[Metrics]:
    """Waits for the device; returns the metrics of all parts in order."""
    self._read += jax.device_get(self._unread)
    self._unread = []
    return self._read

  def lap(self) -> float:
    """Returns the seconds since the last lap, and adds them to the time of this window."""
    now = time.perf_counter()
    seconds, self._began = now - self._began, now
    self._seconds += seconds
    return seconds

  def means(self) -> dict[str, float]:
    """The mean of each metric over the parts."""
    values = self.read()
    # Parts stored by an older version may have further metrics, such as top-5 with five classes.
    return {name: float(np.mean([metrics[name] for metrics in values])) for name in values[-1]}

  def rate(self, images: int) -> float:
    """Images per second up to the last lap, if each part has `images` images."""
    return len(self._read) * images / self._seconds

  def clear(self) -> None:
    """Removes all metrics and restarts the clock, as after a line of the log."""
    self._read, self._seconds, self._began = [], 0.0, time.perf_counter()

  def store(self) -> dict[str, object]:
    """The content as JSON values, for a checkpoint."""
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
  """Checks that metrics are finite.

  Args:
    values: the metrics of each part of a batch, in order, up to the last part of `update`.
    update: number of the last update.
    accumulate: parts per update.
    saved: the update of the latest checkpoint; 0 without one.
    workdir: the run folder.

  Raises:
    UserError: for a value that is not finite; names its update and the latest checkpoint.
  """
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
