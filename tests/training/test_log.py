"""What a run logs, and what it keeps of the log when it continues from an earlier checkpoint."""

import fcntl
import json
import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
import run_files

from attn_flax.training.log import Log

ROOT = str(pathlib.Path(__file__).parents[2])


def log_steps(workdir, start, stop, total=20):
  """Logs the updates after `start` up to `stop`, each with a different loss."""
  with Log(workdir, start=start, total=total) as log:
    for step in range(start + 1, stop + 1):
      log.advance(step)
      log.metrics(step, {'loss': step + start / 100, 'lr': 0.1})


def test_lines_events_and_terminal_say_the_same(tmp_path, capsys):
  log_steps(tmp_path, 0, 3)
  assert run_files.metrics(tmp_path) == [
    {'step': step, 'loss': float(step), 'lr': 0.1} for step in (1, 2, 3)
  ]
  assert run_files.events(tmp_path) == {
    'loss': {1: 1.0, 2: 2.0, 3: 3.0},
    'lr': {step: np.float32(0.1) for step in (1, 2, 3)},
  }
  captured = capsys.readouterr()
  assert captured.out.splitlines() == [f'step {step}/20 loss={step} lr=0.1' for step in (1, 2, 3)]
  assert captured.err == ''  # The bar is for terminals.


def test_going_on_drops_what_was_logged_behind_the_checkpoint(tmp_path):
  """Five updates, then again from the third: each update counts once, by its last attempt."""
  log_steps(tmp_path, 0, 5)
  log_steps(tmp_path, 3, 6)
  losses = {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.03, 5: 5.03, 6: 6.03}
  assert {line['step']: line['loss'] for line in run_files.metrics(tmp_path)} == losses
  assert len(run_files.metrics(tmp_path)) == 6
  assert run_files.events(tmp_path)['loss'] == {s: np.float32(v) for s, v in losses.items()}


def test_starting_afresh_drops_everything(tmp_path):
  """As after a kill before the first checkpoint."""
  log_steps(tmp_path, 0, 4)
  (file,) = (tmp_path / 'tensorboard').iterdir()
  file.rename(file.with_name('events.out.tfevents.1700000000.host'))  # As if from an earlier day.
  log_steps(tmp_path, 0, 2)
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 2
  assert [line['step'] for line in run_files.metrics(tmp_path)] == [1, 2]
  assert run_files.events(tmp_path)['loss'] == {1: 1.0, 2: 2.0}


@pytest.mark.parametrize(
  'tail', ['{"step": 3, "lo', '{"step"', '\n\n', '[3]\n', 'null', '{"a": 1}\n']
)
def test_a_line_that_a_kill_cut_short_is_dropped(tail, tmp_path):
  log_steps(tmp_path, 0, 3)
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write(tail)
  log_steps(tmp_path, 3, 4)
  assert [line['step'] for line in run_files.metrics(tmp_path)] == [1, 2, 3, 4]


def test_every_line_is_on_disk_at_once(tmp_path):
  """So that a run that is killed loses no line."""
  with Log(tmp_path, start=0, total=2) as log:
    log.metrics(1, {'loss': 0.5})
    assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {'step': 1, 'loss': 0.5}


def test_other_processes_write_nothing(tmp_path, capsys):
  with Log(tmp_path, start=0, total=2, write=False) as log:
    log.advance(1)
    log.metrics(1, {'loss': 0.5})
  assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ''


def test_lines_without_scores_are_few_where_there_is_no_terminal(tmp_path, capsys):
  """All lines are in the files, and all scores are printed."""
  with Log(tmp_path, start=0, total=10_000) as log:
    for step in range(1, 1001):
      log.metrics(step, {'loss': 0.5})
    log.metrics(1000, {'val_loss': 0.25})
    log.metrics(1000, {'val_loss': 0.25})
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == 'step 1/10000 loss=0.5' and len(lines) == 21 + 2
  assert lines[-2:] == ['step 1000/10000 val_loss=0.25'] * 2
  assert len(run_files.metrics(tmp_path)) == 1002


def test_a_terminal_gets_a_bar_with_the_time_left(tmp_path, monkeypatch, capsys):
  """Values on the bar, and lines for evaluations only."""
  monkeypatch.setattr('sys.stderr.isatty', lambda: True, raising=False)
  with Log(tmp_path, start=2, total=10, batch_size=64) as log:
    log.advance(4)
    log.metrics(5, {'lr': 0.1, 'loss': 0.5})
    with log.evaluating():
      pass
    log.metrics(5, {'val_loss': 0.25})
    log.advance(6)
  captured = capsys.readouterr()
  assert captured.out == 'step 5 val_loss=0.25\n'
  assert '5/10' in captured.err and ', loss=0.5' in captured.err
  assert ' images/s, ' in captured.err and ' left' in captured.err
  assert '5/10validating' in captured.err.replace(', ', '').replace(' ', '')
  assert 'validating' not in captured.err.rpartition('6/10')[2]


BAR = """
import pathlib, sys
from attn_flax.training.log import Log

with Log(pathlib.Path(sys.argv[1]), start=0, total=1000, batch_size=64) as log:
  for step in range(1, 500):
    log.advance(step)
  log.metrics(500, {'grad_norm': 1.2345, 'loss': 0.56789, 'lr': 0.1, 'top1': 0.5, 'top5': 0.9})
"""


@pytest.mark.parametrize(('columns', 'shown'), [(40, 0), (80, 0), (110, 2), (200, 5)])
def test_the_bar_keeps_its_width_in_any_terminal(columns, shown, tmp_path):
  """Notes that do not fit are left out: first the last metric, and at the end the time left."""
  ours, theirs = pty.openpty()
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
  command = [sys.executable, '-c', BAR, str(tmp_path)]
  with subprocess.Popen(command, stderr=theirs, env=os.environ | {'PYTHONPATH': ROOT}) as process:
    assert process.wait(120) == 0
  os.close(theirs)
  written = os.read(ours, 1 << 20).decode()
  os.close(ours)
  lines = [line for line in written.split('\r') if '/1000' in line]
  assert max(map(len, lines)) <= columns
  assert all(re.search(r'\|.{20}\| \d+/1000', line) for line in lines)
  names = re.findall(r'(\w+)=', lines[-1])
  assert names == ['loss', 'top1', 'top5', 'grad_norm', 'lr'][: len(names)] and len(names) >= shown
  assert (' left' in lines[-1]) == (columns > 40)
