"""Standard streams that are closed, full or no longer read, and memory that runs out."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest
import run_files

from attn_flax.commands import command_line, cost

ROOT = pathlib.Path(__file__).parents[2]
COST = '--mode=cost --models=resnet20 --image_size=32 --attentions=none'
TRAIN = (
  f'--config={ROOT}/configs/resnet.py:smoke "--config.model.depths=(1,)" '
  '"--config.model.widths=(8,)" --config.train.batch_size=8 --config.log_every=1 --workdir=run'
)


def shell(command, folder, data_dir):
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'TFDS_DATA_DIR': str(data_dir)}
  return subprocess.run(
    ['bash', '-c', command.format(run=f'{sys.executable} {ROOT}/main.py')],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.mark.parametrize('streams', ['>&-', '2>&-', '<&-', '<&- >&- 2>&-'])
def test_closed_streams_are_silent_ones(streams, tmp_path, data_dir):
  done = shell(f'{{run}} {COST} {streams}', tmp_path, data_dir)
  assert done.returncode == 0, done.stderr
  assert 'Traceback' not in done.stderr


def test_what_nobody_reads_on_ends_without_a_word(tmp_path, data_dir):
  command = f'{{run}} {COST},se,eca,cbam,bam | true; echo ${{{{PIPESTATUS[0]}}}}'
  done = shell(command, tmp_path, data_dir)
  assert done.stderr == '' and done.stdout.strip() in ('141', '0')


@pytest.mark.slow
@pytest.mark.parametrize('streams', ['| true', '>/dev/full', '>&-', '2>&-', '>&- 2>&-'])
def test_training_does_not_depend_on_its_output(streams, tmp_path):
  """All that is printed is in the log, too."""
  from attn_flax.data.sources.cluttered_digits import build

  root = build.prepare().data_path.parents[2]
  done = shell(f'{{run}} {TRAIN} {streams}; exit ${{{{PIPESTATUS[0]}}}}', tmp_path, root)
  assert done.returncode == 0 and 'rror' not in done.stderr, done.stderr
  assert (tmp_path / 'run' / 'result.json').exists()
  assert run_files.metrics(tmp_path / 'run')[-1]['step'] == 20


@pytest.mark.parametrize(
  'error',
  [
    jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes.'),
    MemoryError(),
  ],
)
def test_too_little_memory_is_one_line(error, monkeypatch, capsys):
  def run(values):
    raise error

  monkeypatch.setattr(cost, 'run', run)
  assert command_line.run(['main.py', *COST.split()]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'there is not enough memory' in line and 'train.batch_size' in line


def test_other_errors_of_a_device_keep_their_traceback(monkeypatch):
  def run(values):
    raise jax.errors.JaxRuntimeError('INTERNAL: a fault')

  monkeypatch.setattr(cost, 'run', run)
  with pytest.raises(jax.errors.JaxRuntimeError, match='a fault'):
    command_line.run(['main.py', *COST.split()])
