"""Interrupted equals uninterrupted, bit for bit."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import run_files

from attn_flax import data
from attn_flax.commands import command_line

ROOT = pathlib.Path(__file__).parents[2]
# Ten updates over two epochs of the reduced dataset; checkpoints within the epochs, too.
TINY = (
  f'--config={ROOT}/configs/resnet.py:smoke',
  '--config.model.depths=(1,)',
  '--config.model.widths=(8,)',
  '--config.train.steps=10',
  '--config.checkpoint.every_steps=3',
  '--config.log_every=1',
)
AVERAGED_PARTS = ('--config.train.ema_decay=0.9', '--config.train.accumulate=2')


def run(*arguments):
  """The exit code of a command line."""
  return command_line.run(['main.py', *map(str, arguments)])


def assert_same_run(actual, expected):
  """Two run folders hold the same checkpoints, scores, predictions and metrics, bit for bit."""
  assert run_files.steps(actual) == run_files.steps(expected)
  for step in run_files.steps(expected):
    run_files.assert_same_arrays(run_files.state(actual, step), run_files.state(expected, step))
  assert run_files.scores(actual) == run_files.scores(expected)
  assert run_files.read(actual)['best_step'] == run_files.read(expected)['best_step']
  with np.load(actual / 'predictions.npz') as a, np.load(expected / 'predictions.npz') as e:
    run_files.assert_same_arrays(dict(a), dict(e))
  lines = [run_files.metrics(folder) for folder in (actual, expected)]
  for line in lines[0] + lines[1]:
    line.pop('images_per_second', None)
  assert lines[0] == lines[1]


def losses(workdir):
  """The updates of `metrics.jsonl` and their losses, in the order of the file."""
  return [(line['step'], line['loss']) for line in run_files.metrics(workdir) if 'loss' in line]


@pytest.fixture(scope='module')
def uninterrupted(small_dataset, tmp_path_factory):
  """The finished run of the tiny network, with an average of the weights and batches in parts."""
  workdir = tmp_path_factory.mktemp('uninterrupted') / 'run'
  assert run(*TINY, *AVERAGED_PARTS, f'--workdir={workdir}') == 0
  return workdir


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('update', [4, 5])
def test_a_stopped_run_ends_as_if_it_had_not_been(
  update, number, uninterrupted, tmp_path, stop_after, capfd
):
  """Stopped between two checkpoints, and at a checkpoint with an evaluation."""
  before = signal.getsignal(number)
  command = (*TINY, *AVERAGED_PARTS, f'--workdir={tmp_path}/run')
  stop_after(update, number)
  assert run(*command) == 128 + number
  assert signal.getsignal(number) is before
  noticed, stopped = capfd.readouterr().err.splitlines()
  assert noticed == 'stopping after this update; a second signal ends the run at once'
  assert f'stopped after update {update} of 10, saved in' in stopped
  assert max(run_files.steps(tmp_path / 'run')) == update
  assert run(*command) == 0
  out = capfd.readouterr().out
  assert f'step {update}/10' not in out.replace(f'step {update}/10 val', '')
  assert f'step {update + 1}/10' in out
  assert_same_run(tmp_path / 'run', uninterrupted)
  assert [step for step, _ in losses(tmp_path / 'run')] == list(range(1, 11))
  shown = run_files.events(tmp_path / 'run')['loss']  # Read from the two event files of the run.
  assert shown == {step: np.float32(loss) for step, loss in losses(tmp_path / 'run')}


def test_what_is_compared_depends_on_what_was_lost(uninterrupted):
  """The state holds weights, their average, statistics, momentum and the counters of parts."""
  (last, *_) = sorted(run_files.steps(uninterrupted), reverse=True)
  names = ' '.join(run_files.state(uninterrupted, last))
  for part in ('params', 'batch_stats', 'ema', 'trace', 'mini_step', 'step'):
    assert part in names
  result = run_files.scores(uninterrupted)
  assert {'test_ema_top1', 'test_ema_top5', 'test_ema_loss'} <= result.keys()
  assert result['test_loss'] != result['test_ema_loss']
  with np.load(uninterrupted / 'predictions.npz') as arrays:
    assert {'labels', 'logits', 'ema_logits'} <= set(arrays)


def test_a_signal_at_the_last_update_is_heard(uninterrupted, tmp_path, stop_after):
  """The last update is saved and left unscored; nothing is trained again."""
  stop_after(10)
  command = (*TINY, *AVERAGED_PARTS, f'--workdir={tmp_path}/run')
  assert run(*command) == 128 + signal.SIGTERM
  assert max(run_files.steps(tmp_path / 'run')) == 10
  assert not (tmp_path / 'run' / 'result.json').exists()
  assert run(*command) == 0
  assert_same_run(tmp_path / 'run', uninterrupted)


def test_a_run_killed_while_it_was_scored_is_scored_again(uninterrupted, tmp_path, capsys):
  """A run that is trained to its end, but has no result, is not trained again."""
  shutil.copytree(uninterrupted, tmp_path / 'run')
  (tmp_path / 'run' / 'result.json').unlink()
  (tmp_path / 'run' / 'predictions.npz').unlink()
  assert run(*TINY, *AVERAGED_PARTS, f'--workdir={tmp_path}/run') == 0
  assert 'step ' not in capsys.readouterr().out
  assert_same_run(tmp_path / 'run', uninterrupted)
  result = run_files.read(uninterrupted)
  # Also in the times, which are stored in the checkpoint.
  assert run_files.read(tmp_path / 'run') == result


@pytest.mark.slow
def test_a_killed_process_is_continued_by_the_same_command(
  small_dataset, tmp_path, monkeypatch, capsys
):
  """The real command in a process of its own, ended by SIGKILL, with nothing patched.

  The process compiles its own programs, so that only the run folder is shared.
  """
  monkeypatch.setitem(data.DATASETS, 'cluttered_digits', small_dataset)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'datasets'))
  command = [f'--config={ROOT}/configs/eca.py:smoke', *TINY[1:]]
  killed, uninterrupted = tmp_path / 'killed', tmp_path / 'uninterrupted'
  environment = os.environ | {'JAX_ENABLE_COMPILATION_CACHE': 'false', 'PYTHONPATH': str(ROOT)}
  with subprocess.Popen(
    [sys.executable, str(ROOT / 'main.py'), *command, f'--workdir={killed}'],
    cwd=tmp_path,
    env=environment,
    text=True,
    stdout=subprocess.PIPE,
  ) as process:
    for line in process.stdout:
      if line.startswith('step 7/10'):  # By now the checkpoint of update 3 is complete.
        process.kill()
        break
  assert process.returncode == -signal.SIGKILL
  assert not (killed / 'result.json').exists()
  saved = max(run_files.steps(killed))
  assert saved in (3, 6)

  assert run(*command, f'--workdir={killed}') == 0
  out = capsys.readouterr().out
  assert f'step {saved}/10' not in out and f'step {saved + 1}/10' in out
  assert run(*command, f'--workdir={uninterrupted}') == 0
  assert_same_run(killed, uninterrupted)
  assert [step for step, _ in losses(killed)] == list(range(1, 11))
  assert run_files.read(killed)['test_count'] == 2000
