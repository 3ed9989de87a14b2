"""Logs the metrics of a run to JSON lines, TensorBoard event files and a progress bar."""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tqdm
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from attn_flax.errors import UserError
from attn_flax.training import artifacts
from attn_flax.training.pace import Pace

_FLUSH_SECONDS = 5  # Between flushes of TensorBoard's file to the disk.
# The most lines without validation scores that a run prints where there is no terminal.
_MOST_LINES = 200
_FORM = '{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}{postfix}'
_USUAL_WIDTH = 80  # Columns of a terminal whose width is not known.


class Log:
  """Metrics of a run, to `metrics.jsonl`, to `tensorboard/` and to the terminal.

  On a terminal there is a progress bar with the time left; elsewhere lines of metrics are printed:
  all validation scores, and a limited number of others. A resumed run drops what was logged after
  its checkpoint and continues from there.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    start: int,
    total: int,
    batch_size: int | None = None,
    eval_every: int | None = None,
    unscored: bool = False,
    write: bool = True,
  ):
    """Opens the log.

    Args:
      workdir: the run folder.
      start: the update that the run goes on from.
      total: the updates of the run.
      batch_size: images per update; None: images per second are not shown.
      eval_every: updates between evaluations; None: no evaluations.
      unscored: whether the validation scores of `start` have yet to be computed.
      write: whether this process writes the files; False for all processes but the first.

    Raises:
      UserError: where the files cannot be written.
    """
    self._write = write
    self._workdir = workdir
    self._total, self._batch_size = total, batch_size
    self._pace = Pace(start, total, eval_every)
    self._values: list[str] = []
    self._printed = -1
    self._is_evaluating = False
    self._bar = _Bar(
      total=total,
      initial=start,
      dynamic_ncols=True,
      bar_format=_FORM,
      disable=not (write and sys.stderr.isatty()),
    )
    self._bar.notes = self._notes
    if write:
      with _reporting(workdir):
        path = workdir / artifacts.File.METRICS
        _drop_later(path, start, unscored)
        self._file = path.open('a')
        self._events = _Events(workdir / artifacts.Folder.TENSORBOARD, start)

  def advance(self, done: int) -> None:
    """Moves the bar to an update, the last one that the device has finished."""
    self._pace.move(done)
    self._bar.update(max(done - self._bar.n, 0))

  @contextlib.contextmanager
  def evaluating(self) -> Iterator[None]:
    """Shows that the body is an evaluation, and times it as one."""
    self._is_evaluating = True
    self._bar.refresh()
    try:
      with self._pace.evaluating():
        yield
    finally:
      self._is_evaluating = False

  def metrics(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the metrics of an update that the device has finished.

    Args:
      step: number of the update.
      values: {metric: value}; validation scores are called `val_...`.

    Raises:
      UserError: where the files cannot be written.
    """
    self.advance(step)
    if not self._write:
      return
    with _reporting(self._workdir):
      self._file.write(json.dumps({'step': step, **values}) + '\n')
      self._file.flush()
      self._events.add(step, values)
    text = ' '.join(f'{name}={value:.4g}' for name, value in values.items())
    if not self._bar.disable:
      if _has_scores(values):
        self._bar.write(f'step {step} {text}')
      else:
        self._values = sorted(text.split(), key=_rank)
        self._bar.refresh()
    elif _has_scores(values) or self._is_due(step):
      print(f'step {step}/{self._total} {text}', flush=True)

  def _is_due(self, step: int) -> bool:
    """Whether a line without scores is printed where there is no terminal."""
    part = step * _MOST_LINES // self._total
    if part == self._printed:
      return False
    self._printed = part
    return True

  def _notes(self) -> list[str]:
    """The notes printed after the bar, the most important first."""
    rate, left = self._pace.rate(), self._pace.left()
    notes = ['validating'] if self._is_evaluating else []
    if rate is not None and self._batch_size is not None:
      notes.append(f'{_three_digits(rate * self._batch_size)} images/s')
    if left is not None:
      notes.append(f'{tqdm.tqdm.format_interval(left)} left')
    return [*notes, *self._values]

  def __enter__(self) -> 'Log':
    """Returns the log itself."""
    return self

  def __exit__(self, *_: object) -> None:
    """Closes the bar and the files."""
    self._bar.close()
    if self._write:
      with _reporting(self._workdir):
        self._file.close()
        self._events.close()


class _Bar(tqdm.tqdm):
  """A progress bar of fixed width, followed by as many notes as fit the terminal.

  Attributes:
    notes: returns the notes, the most important first.
  """

  notes: Callable[[], list[str]] = list

  @property
  def format_dict(self) -> dict[str, Any]:
    """The fields of the bar's line, with the notes that fit."""
    fields: dict[str, Any] = super().format_dict
    width = fields['ncols'] or _USUAL_WIDTH
    fields |= {'ncols': width, 'postfix': ''}
    room = width - 1 - len(self.format_meter(**fields))
    for note in self.notes():
      room -= len(note) + len(', ')
      if room < 0:
        break
      fields['postfix'] += f', {note}'
    fields['postfix'] = fields['postfix'].removeprefix(', ')
    return fields


def _rank(value: str) -> int:
  """The sort key of a metric after the bar: the loss first, then scores, then the others."""
  name = value.partition('=')[0]
  return {'loss': 0, 'grad_norm': 2, 'lr': 2, 'images_per_second': 3}.get(name, 1)


def _three_digits(value: float) -> str:
  """A positive number with about three digits."""
  return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


class _Events:
  """Writes TensorBoard's event file in this thread, so that errors are raised where they happen."""

  def __init__(self, folder: pathlib.Path, start: int):
    """Opens the file; `start` is the update that the run continues from."""
    folder.mkdir(parents=True, exist_ok=True)
    # The suffix keeps apart files that are made within one second.
    self._writer = EventsWriter(str(folder / 'events'), f'.{start}')
    # A session start makes TensorBoard hide what earlier files hold after `start`.
    session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(start + 1, session_log=session)
    self._flushed = time.monotonic()

  def _write(self, step: int, **content: object) -> None:
    self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))

  def add(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a scalar for each value."""
    for name, value in values.items():
      self._write(step, summary=summary.scalar(name, value))
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self._writer.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    """Closes the file."""
    self._writer.close()


@contextlib.contextmanager
def _reporting(workdir: pathlib.Path) -> Iterator[None]:
  """Turns errors of the file system into a `UserError`."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f'the log in {workdir} cannot be written ({error.strerror}); fix that, and give the same '
      'command again'
    ) from None


def _has_scores(values: Mapping[str, float]) -> bool:
  return any(name.startswith(artifacts.score_name('val', '')) for name in values)


def _drop_later(path: pathlib.Path, start: int, unscored: bool) -> None:
  """Drops the lines of a log after an update, and those that are cut off because a run was killed.

  Where the update is `unscored`, its line of validation scores is dropped, too.
  """
  if not path.exists():
    return
  kept = []
  for line in path.read_text(errors='replace').splitlines():
    try:
      values = json.loads(line)
      is_kept = values['step'] < start or (
        values['step'] == start and not (unscored and _has_scores(values))
      )
    except (ValueError, KeyError, TypeError, RecursionError):
      continue
    if is_kept:
      kept.append(line)
  with artifacts.replacing(path) as partial:
    partial.write_text(''.join(line + '\n' for line in kept))
