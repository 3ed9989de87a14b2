"""Logs the metrics of a run: JSON lines, TensorBoard event files, a progress bar."""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping

import tqdm
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from attn_flax.errors import UserError

_FLUSH_SECONDS = 5  # Between writes of TensorBoard's file to the disk.


class Log:
  """Metrics of a run, to `metrics.jsonl`, to `tensorboard/` and to the terminal.

  On a terminal there is a progress bar with the time left; elsewhere each line of metrics is
  printed. A resumed run drops what was logged behind its checkpoint and goes on from there.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    start: int,
    total: int,
    unscored: bool = False,
    write: bool = True,
  ):
    """Opens the log.

    Args:
      workdir: the run folder.
      start: the update that the run goes on from.
      total: the updates of the run.
      unscored: whether the validation scores of `start` are still to come.
      write: False for all processes but the first.

    Raises:
      UserError: when the files cannot be written.
    """
    self._write = write
    self._workdir = workdir
    self._bar = tqdm.tqdm(
      total=total,
      initial=start,
      unit='step',
      dynamic_ncols=True,
      disable=not (write and sys.stderr.isatty()),
    )
    if write:
      with _reporting(workdir):
        path = workdir / 'metrics.jsonl'
        _drop_later(path, start, unscored)
        self._file = path.open('a')
        self._events = _Events(workdir / 'tensorboard', start)

  def advance(self, step: int) -> None:
    """Moves the bar to an update."""
    self._bar.update(step - self._bar.n)

  def metrics(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the metrics of an update."""
    if not self._write:
      return
    with _reporting(self._workdir):
      self._file.write(json.dumps({'step': step, **values}) + '\n')
      self._file.flush()
      self._events.add(step, values)
    text = ' '.join(f'{name}={value:.4g}' for name, value in values.items())
    if self._bar.disable:
      print(f'step {step}/{self._bar.total} {text}', flush=True)
    elif _has_scores(values):
      self._bar.write(f'step {step} {text}')
    else:
      self._bar.set_postfix_str(text)

  def __enter__(self) -> 'Log':
    """The log itself."""
    return self

  def __exit__(self, *_: object) -> None:
    """Closes the bar and the files."""
    self._bar.close()
    if self._write:
      with _reporting(self._workdir):
        self._file.close()
        self._events.close()


class _Events:
  """Writes the event file of TensorBoard, in this thread: an error is raised where it happens."""

  def __init__(self, folder: pathlib.Path, start: int):
    """`start` is the update that the run goes on from."""
    folder.mkdir(parents=True, exist_ok=True)
    # The suffix tells files of one second apart.
    self._writer = EventsWriter(str(folder / 'events'), f'.{start}')
    # TensorBoard then hides what earlier files hold behind `start`.
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
    """Ends the file."""
    self._writer.close()


@contextlib.contextmanager
def _reporting(workdir: pathlib.Path) -> Iterator[None]:
  """Turns errors of the file system into `UserError`."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f'the log in {workdir} cannot be written ({error.strerror}); fix that, and give the same '
      'command again'
    ) from None


def _has_scores(values: Mapping[str, float]) -> bool:
  return any(name.startswith('val_') for name in values)


def _drop_later(path: pathlib.Path, start: int, unscored: bool) -> None:
  """Keeps the lines up to an update; a line that a kill cut short goes too.

  Of the update itself, where it is `unscored`, a line with scores goes as well.
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
  partial = path.with_name(path.name + '.partial')
  partial.write_text(''.join(line + '\n' for line in kept))
  partial.replace(path)
