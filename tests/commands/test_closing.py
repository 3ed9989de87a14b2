"""The lines that a run prints at its beginning and at its end."""

import math
import pathlib
import re
import sys

import pytest
import run_files

from attn_flax.commands import command_line
from attn_flax.commands.closing import closing, wilson
from attn_flax.tasks import classification

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = (
  '--config=eca:smoke',
  '--config.model.depths=(1,)',
  '--config.model.widths=(8,)',
  '--config.train.steps=4',
  '--config.log_every=2',
)
RESULT = {
  'test_loss': 0.481234567,
  'test_top1': 0.8605,
  'test_top5': 0.99123,
  'test_count': 2000,
  'test_per_class': {'0': 0.5},
  'best_step': 875,
  'params': 272_501,
  'steps': 1000,
  'train_seconds': 130.4,
  'compile_seconds': 12.34,
  'images_per_second': 490.8,
}


@pytest.fixture
def elsewhere(small_dataset, quick_compilation, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'argv', ['main.py'])
  return tmp_path


def printed(capsys, *words):
  assert command_line.run(['main.py', *COMMAND, *words]) == 0
  captured = capsys.readouterr()
  assert captured.err == '' and not re.search(r'[\x00-\x09\x0b-\x1f]', captured.out)
  return captured.out.splitlines()


def test_three_lines_come_before_the_first_step(elsewhere, capsys):
  lines = printed(capsys, '--workdir=run')
  result = run_files.read(elsewhere / 'run')
  assert lines[0] == (
    f'network: resnet20 with eca (branch), {result["params"]:,} parameters, '
    f'{result["macs"] / 1e6:,.1f} million multiply-adds per image'
  )
  assert lines[1] == (
    'data: cluttered_digits, 320 train, 120 validation, 120 test images of 32x32 pixels, 10 classes'
  )
  assert lines[2] == ('run: 4 updates of 64 images on 1 CPU device, into run; compiling the update')
  assert lines[3].startswith('step 2/4 ')


def test_a_run_that_goes_on_says_from_where(elsewhere, capsys, stop_after):
  stop_after(2)
  assert command_line.run(['main.py', *COMMAND, '--workdir=run']) == 143
  capsys.readouterr()
  (line,) = [line for line in printed(capsys, '--workdir=run') if line.startswith('run: ')]
  assert line.startswith('run: from update 2, 4 updates of 64 images')


def test_the_end_says_how_good_it_is_and_what_comes_next(elsewhere, capsys):
  lines = printed(capsys, '--workdir=my run')
  result = run_files.read(elsewhere / 'my run')
  end = lines[-6:]
  top1 = f'{100 * result["test_top1"]:.1f}'
  assert re.match(rf'test: top1 {top1} % \(95 % interval [\d.]+ to [\d.]+ %, 120 images\)', end[0])
  assert '{' not in ''.join(end) and not re.search(r'\d\.\d{4}', ''.join(end))
  assert end[-2] == "next: python main.py --mode=compare --workdirs='my run',<another run>"
  assert "--mode=explain --workdir='my run' --images=" in end[-1]
  again = printed(capsys, '--workdir=my run')
  assert 'nothing to do' in again[0] and again[1:] == end


def test_numbers_have_the_digits_that_say_something():
  task = classification.classification()
  lines = closing(RESULT, task, pathlib.Path('runs/eca'), None).splitlines()
  assert lines[:3] == [
    'test: top1 86.1 % (95 % interval 84.5 to 87.5 %, 2,000 images), top5 99.1 %, loss 0.481',
    'checkpoint: that of update 875 of 1,000, the best on the validation images',
    'time: 2 min of training (491 images/s), 12.3 s of compilation',
  ]
  averaged = {**RESULT, 'test_ema_top1': 1.0, 'test_ema_loss': 0.1}
  line = closing(averaged, task, pathlib.Path('runs/eca'), None).splitlines()[0]
  assert line == (
    'test: top1 100.0 % (95 % interval 99.8 to 100.0 %, 2,000 images), loss 0.1, by the moving '
    'average of the weights'
  )
  photos = closing(RESULT, task, pathlib.Path('runs/eca'), 'my photos').splitlines()[-1]
  assert photos.endswith("--images='my photos'")


def test_other_tasks_have_an_end_too():
  task = classification.classification()._replace(
    best='error', best_range=(-math.inf, math.inf), logged=('error',), classes=None
  )
  lines = closing({'test_error': 0.123456, 'steps': 3}, task, pathlib.Path('run'), None)
  assert lines.splitlines()[0] == 'test: error 0.123' and 'explain' not in lines
  with_classes = task._replace(classes=classification.classification().classes)
  result = {'test_error': 1.7, 'test_count': 5, 'steps': 3}  # No share, so it has no such interval.
  lines = closing(result, with_classes, pathlib.Path('run'), None)
  assert lines.splitlines()[0] == 'test: error 1.7'


def test_times_that_a_result_lacks_are_not_said():
  task = classification.classification()
  untimed = {name: value for name, value in RESULT.items() if 'second' not in name}
  text = closing(untimed, task, pathlib.Path('run'), None)
  assert 'time:' not in text and '0 images/s' not in text and '0.0 s' not in text
  lines = closing(untimed | {'train_seconds': 3.0}, task, pathlib.Path('run'), None).splitlines()
  assert lines[2] == 'time: 3.0 s of training'


@pytest.mark.parametrize(
  ('share', 'count', 'low', 'high'),
  [
    (0.5, 10, 0.2366, 0.7634),
    (0.0, 10, 0.0, 0.2775),
    (1.0, 10, 0.7225, 1.0),
    (0.9, 50, 0.7864, 0.9565),
  ],
)
def test_the_interval_is_wilsons(share, count, low, high):
  """It lies within 0..1 even if none or all are right."""
  assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)
