"""Logs the metrics of a run: JSON lines, TensorBoard event files, a progress bar."""

import json
import pathlib
import sys
from collections.abc import Mapping

import tensorboardX
import tqdm


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
    self._bar = tqdm.tqdm(
      total=total,
      initial=start,
      unit='step',
      dynamic_ncols=True,
      disable=not (write and sys.stderr.isatty()),
    )
    if write:
      path = workdir / 'metrics.jsonl'
      _drop_later(path, start, unscored)
      self._file = path.open('a')
      # TensorBoard then hides what earlier files hold behind `start`. The suffix tells files of
      # one second apart.
      self._events = tensorboardX.SummaryWriter(
        str(workdir / 'tensorboard'),
        purge_step=start + 1,
        filename_suffix=f'.{start}',
        flush_secs=5,
      )

  def advance(self, step: int) -> None:
    """Moves the bar to an update."""
    self._bar.update(step - self._bar.n)

  def metrics(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the metrics of an update."""
    if not self._write:
      return
    self._file.write(json.dumps({'step': step, **values}) + '\n')
    self._file.flush()
    for name, value in values.items():
      self._events.add_scalar(name, value, step)
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
      self._file.close()
      self._events.close()


def _has_scores(values: Mapping[str, float]) -> bool:
  return any(name.startswith('val_') for name in values)


def _drop_later(path: pathlib.Path, start: int, unscored: bool) -> None:
  """Keeps the lines up to an update; a line that a kill cut short goes too.

  Of the update itself, where it is `unscored`, a line with scores goes as well.
  """
  if not path.exists():
    return
  kept = []
  for line in path.read_text().splitlines():
    try:
      values = json.loads(line)
      is_kept = values['step'] < start or (
        values['step'] == start and not (unscored and _has_scores(values))
      )
    except (ValueError, KeyError, TypeError):
      continue
    if is_kept:
      kept.append(line)
  partial = path.with_name(path.name + '.partial')
  partial.write_text(''.join(line + '\n' for line in kept))
  partial.replace(path)
