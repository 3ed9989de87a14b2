"""Run folders of an earlier version can be continued, and used by every command.

Commit 3905b53 made the files in `tests/frozen`: `run.tar.gz` is the folder of a run that was
stopped after update 6 of 10, `imported.tar.gz` that of (random) weights imported from PyTorch, and
`study.tar.gz` that of a study of two variants and two seeds, without its report. `finished.json`
holds the results of the same commit: metrics and result of the run without the stop, scores of the
import, and the columns of the study's `results.csv` except times. One value is newer: the share of
hits of random maps in the pointing game, because random maps are now drawn by image. The commands
are in each `config.json`; the dataset is the reduced copy that `small_data` prepares.
"""

import csv
import json
import pathlib
import shlex
import tarfile

import numpy as np
import pytest
import run_files
from PIL import Image

from attn_flax import data
from attn_flax.commands import command_line

ROOT = pathlib.Path(__file__).parents[1]
FROZEN = ROOT / 'tests' / 'frozen'


def run(*arguments):
  return command_line.run(['main.py', *map(str, arguments)])


def unpack(name, folder):
  """Unpacks a frozen folder into `folder`, and returns its path."""
  with tarfile.open(FROZEN / f'{name}.tar.gz') as archive:
    archive.extractall(folder, filter='data')
  return folder / name


@pytest.fixture
def stopped(small_dataset, tmp_path):
  """The folder of the stopped run."""
  return unpack('run', tmp_path)


@pytest.fixture(scope='module')
def finished():
  """The results of the earlier version."""
  return json.loads((FROZEN / 'finished.json').read_text())


def assert_close(actual, expected):
  """Two JSON trees have the same keys and, up to rounding, the same numbers."""
  assert type(actual) is type(expected)
  if isinstance(expected, dict):
    assert actual.keys() == expected.keys()
    for key in expected:
      assert_close(actual[key], expected[key])
  elif isinstance(expected, float):
    # In the first updates of a network rounding errors grow, but stay below a percent.
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3)
  else:
    assert actual == expected


def test_it_goes_on_to_the_same_end(stopped, finished, capsys):
  assert run(f'--workdir={stopped}') == 0
  assert 'step 6/10' not in capsys.readouterr().out
  lines = run_files.metrics(stopped)
  for line in lines:
    line.pop('images_per_second', None)
  assert [list(line) for line in lines] == [list(line) for line in finished['metrics']]
  for line, expected in zip(lines, finished['metrics'], strict=True):
    for name, value in expected.items():
      # With few validation images, one that rounding decides moves the share by 0.01.
      np.testing.assert_allclose(line[name], value, rtol=2e-3, atol=0.02 if 'top' in name else 1e-3)
  result = run_files.read(stopped)
  assert [name for name in result if name in finished['result']] == list(finished['result'])
  for name in ('params', 'macs', 'steps', 'best_step', 'test_count'):
    assert result[name] == finished['result'][name]


def test_it_is_evaluated(stopped, finished, capsys):
  """The best checkpoint, of update 5, has the validation scores that were logged for it."""
  assert run('--mode=evaluate', f'--workdir={stopped}', '--split=validation') == 0
  out, err = capsys.readouterr()
  assert f'{stopped}/checkpoints/5 was saved before there were digests; damage to it' in err
  scores = json.loads(out)
  (logged,) = [line for line in finished['metrics'] if line['step'] == 5 and 'val_loss' in line]
  assert scores.pop('step') == logged.pop('step')
  renamed = {name.replace('validation_', 'val_'): value for name, value in scores.items()}
  assert_close(renamed, logged)


@pytest.mark.parametrize('name', ['run', 'imported'])
def test_it_predicts_and_is_explained(small_dataset, tmp_path, capsys, name):
  folder = unpack(name, tmp_path)
  image = tmp_path / 'digit.png'
  Image.fromarray(data.load('cluttered_digits', splits=('test',)).splits['test'].image[0]).save(
    image
  )
  assert run('--mode=predict', f'--workdir={folder}', f'--images={image}') == 0
  assert capsys.readouterr().out.count('%') == 5
  assert run('--mode=explain', f'--workdir={folder}', f'--images={image}') == 0
  (row,) = run_files.read(folder, 'explanations.json')['images']
  # The gate of the imported network weighs channels alone.
  assert set(row['maps']) == {'run': {'grad_cam', 'own_map'}, 'imported': {'grad_cam'}}[name]


@pytest.mark.slow
def test_it_is_reported_on(stopped, tmp_path, capsys):
  """After it is finished, because a report leaves out unfinished runs."""
  assert run(f'--workdir={stopped}') == 0
  assert (
    run(
      '--mode=compare',
      f'--workdirs={stopped}',
      f'--workdir={tmp_path}/report',
      '--config=configs/compare.py:smoke',
      '--config.report.perturbed_images=3',
      '--config.report.steps=2',
    )
    == 0
  )
  assert (tmp_path / 'report' / 'results.csv').read_text().startswith('variant,')


def test_an_import_has_its_scores(small_dataset, tmp_path, finished, capsys):
  folder = unpack('imported', tmp_path)
  assert run('--mode=evaluate', f'--workdir={folder}') == 0
  assert_close(json.loads(capsys.readouterr().out), finished['imported'])


@pytest.mark.slow
def test_a_study_is_reported_on_as_before(small_dataset, tmp_path, finished, monkeypatch, capsys):
  """The command that made the study makes no new update."""
  study = unpack('study', tmp_path)
  command = shlex.split(json.loads((study / 'eca/seed0/config.json').read_text())['command'])
  monkeypatch.chdir(ROOT)
  words = [word for word in command[2:] if not word.startswith('--workdir=')]
  assert run(*words, f'--workdir={study}') == 0
  assert 'step 10/10' not in capsys.readouterr().out
  with (study / 'results.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['variant'] for row in rows] == ['resnet', 'eca']
  for row, expected in zip(rows, finished['study'], strict=True):
    for name, value in expected.items():
      if isinstance(value, str):
        assert row[name] == value, name
      else:
        # Shares of few images and pixels: one that rounding decides changes them.
        np.testing.assert_allclose(float(row[name]), value, rtol=0.02, atol=0.02, err_msg=name)
