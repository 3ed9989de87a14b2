"""`--mode=evaluate` on data that has moved, or on other data."""

import json
import pathlib
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from attn_flax.commands import command_line

ROOT = pathlib.Path(__file__).parents[2]


def run(*words):
  return command_line.run(['main.py', *map(str, words)])


def paint(folder, seed):
  """A folder of images of two classes, drawn at random."""
  rng = np.random.default_rng(seed)
  for split in ('train', 'val', 'test'):
    for name in ('cat', 'dog'):
      (folder / split / name).mkdir(parents=True)
      for i in range(8):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / split / name / f'{i}.png')


@pytest.fixture(scope='module')
def trained(quick_compilation, tmp_path_factory):
  """A finished run whose images have moved, and its command without their folder."""
  folder = tmp_path_factory.mktemp('moved')
  paint(folder / 'images', seed=0)
  paint(folder / 'others', seed=1)
  command = [
    f'--config={ROOT}/configs/resnet.py:smoke',
    f'--workdir={folder}/run',
    '--config.data.name=folder',
    '--config.model.depths=(1,)',
    '--config.model.widths=(8,)',
    '--config.train.batch_size=8',
    '--config.train.steps=2',
  ]
  assert run(*command, f'--config.data.dir={folder}/images') == 0
  (folder / 'images').rename(folder / 'elsewhere')
  return folder, command


def test_images_that_have_moved_are_scored_where_they_are(trained, capsys):
  folder, command = trained
  assert run('--mode=evaluate', f'--workdir={folder}/run') == 2
  assert f'{folder}/images' in capsys.readouterr().err
  assert run('--mode=evaluate', *command, f'--config.data.dir={folder}/elsewhere') == 0
  scores = json.loads(capsys.readouterr().out)
  result = json.loads((folder / 'run' / 'result.json').read_text())
  assert scores['test_loss'] == pytest.approx(result['test_loss'], rel=1e-5)


def test_classes_are_the_same_in_any_unicode_form_of_their_names(trained, tmp_path):
  folder, command = trained
  words = [word for word in command if 'workdir' not in word]
  for form, mode in (('NFC', []), ('NFD', ['--mode=evaluate'])):
    shutil.copytree(folder / 'others', tmp_path / form)
    for split in ('train', 'val', 'test'):
      place = tmp_path / form / split
      (place / 'dog').rename(place / unicodedata.normalize(form, 'hündin'))
    where = (f'--workdir={tmp_path}/run', f'--config.data.dir={tmp_path}/{form}')
    assert run(*mode, *words, *where) == 0


def test_other_images_are_scored(trained, capsys):
  folder, command = trained
  assert run('--mode=evaluate', *command, f'--config.data.dir={folder}/others') == 0
  scores = json.loads(capsys.readouterr().out)
  result = json.loads((folder / 'run' / 'result.json').read_text())
  assert scores['test_count'] == 16 and scores['test_loss'] != result['test_loss']


def test_other_images_are_normalized_as_those_of_the_run(trained, tmp_path, capsys):
  folder, command = trained
  copied = tmp_path / 'run'
  shutil.copytree(folder / 'run', copied)
  described = json.loads((copied / 'dataset.json').read_text())
  (copied / 'dataset.json').write_text(json.dumps(described | {'mean': [0.9, 0.1, 0.5]}))
  words = [word for word in command if 'workdir' not in word]
  losses = []
  for workdir in (folder / 'run', copied):
    where = (f'--workdir={workdir}', f'--config.data.dir={folder}/others')
    assert run('--mode=evaluate', *words, *where) == 0
    printed = capsys.readouterr()
    losses.append(json.loads(printed.out)['test_loss'])
  assert 'normalized by the given mean and deviation, 0.9 0.1 0.5 and' in printed.err
  assert abs(losses[0] - losses[1]) > 1e-4


def test_images_of_other_classes_are_refused(trained, tmp_path, capsys):
  folder, command = trained
  shutil.copytree(folder / 'others', tmp_path / 'wild')
  for split in ('train', 'val', 'test'):
    (tmp_path / 'wild' / split / 'cat').rename(tmp_path / 'wild' / split / 'wolf')
  assert run('--mode=evaluate', *command, f'--config.data.dir={tmp_path}/wild') == 2
  found, line = capsys.readouterr().err.splitlines()
  assert found.startswith(f'{tmp_path}/wild: 2 classes')
  assert f'other classes than the data that {folder}/run was trained on' in line


def test_the_config_of_another_run_is_refused(trained, capsys):
  folder, command = trained
  words = [*command, f'--config.data.dir={folder}/elsewhere', '--config.optimizer.momentum=0.5']
  assert run('--mode=evaluate', *words) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'optimizer.momentum: 0.9 there, 0.5 asked' in line
