"""A run folder of an earlier version goes on, and serves every command, for as long as this passes.

`tests/frozen/run.tar.gz` is the folder of a run that the commit 3905b53 stopped after update 6 of
10, and `finished.json` holds what the same commit made of it without the stop. The command is in
the folder's `config.json`; the dataset is the reduced copy that `small_data` prepares.
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest
import run_files
from PIL import Image

import main
from attn_flax import data

FROZEN = pathlib.Path(__file__).parents[1] / 'frozen'


def run(*arguments):
  return main.run(['main.py', *map(str, arguments)])


@pytest.fixture
def stopped(small_dataset, tmp_path):
  """The run folder, as it was left."""
  with tarfile.open(FROZEN / 'run.tar.gz') as archive:
    archive.extractall(tmp_path, filter='data')
  return tmp_path / 'run'


@pytest.fixture(scope='module')
def finished():
  """The metrics and the result of the run that was not stopped."""
  return json.loads((FROZEN / 'finished.json').read_text())


def assert_close(actual, expected):
  """Two trees of JSON agree in their keys and, to within a machine's rounding, in their numbers."""
  assert type(actual) is type(expected)
  if isinstance(expected, dict):
    assert actual.keys() == expected.keys()
    for key in expected:
      assert_close(actual[key], expected[key])
  elif isinstance(expected, float):
    # Updates of a network that has just begun to learn: rounding grows, but not to a percent.
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
      # Few validation images: one that rounding decides moves the share by a hundredth.
      np.testing.assert_allclose(line[name], value, rtol=2e-3, atol=0.02 if 'top' in name else 1e-3)
  result = run_files.read(stopped)
  assert [name for name in result if name in finished['result']] == list(finished['result'])
  for name in ('params', 'macs', 'steps', 'best_step', 'test_count'):
    assert result[name] == finished['result'][name]


def test_it_is_evaluated(stopped, finished, capsys):
  """The best checkpoint, of update 5, has the validation scores that were logged for it."""
  assert run('--mode=evaluate', f'--workdir={stopped}', '--split=validation') == 0
  scores = json.loads(capsys.readouterr().out)
  (logged,) = [line for line in finished['metrics'] if line['step'] == 5 and 'val_loss' in line]
  assert scores.pop('step') == logged.pop('step')
  renamed = {name.replace('validation_', 'val_'): value for name, value in scores.items()}
  assert_close(renamed, logged)


def test_it_predicts_and_is_explained(stopped, tmp_path, capsys):
  image = tmp_path / 'digit.png'
  Image.fromarray(data.load('cluttered_digits', splits=('test',)).splits['test'].image[0]).save(
    image
  )
  assert run('--mode=predict', f'--workdir={stopped}', f'--images={image}') == 0
  assert capsys.readouterr().out.count('%') == 5
  assert run('--mode=explain', f'--workdir={stopped}', f'--images={image}') == 0
  (row,) = run_files.read(stopped, 'explanations.json')['images']
  assert set(row['maps']) == {'grad_cam', 'own_map'}


def test_it_stands_in_a_report(stopped, tmp_path, capsys):
  """Finished first, as a report leaves out what is not."""
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
