"""`--mode=evaluate` on data that has moved, or on other data."""

import json
import pathlib
import re
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from attn_flax.commands import command_line

ROOT = pathlib.Path(__file__).parents[2]


def run(*words):
  return command_line.run(['main.py', *map(str, words)])


def paint(folder, seed, side=16, splits=('train', 'val', 'test'), classes=('cat', 'dog')):
  """A folder of images drawn at random, eight of each class."""
  rng = np.random.default_rng(seed)
  for split in splits:
    for name in classes:
      (folder / split / name).mkdir(parents=True)
      for i in range(8):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
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
  line = capsys.readouterr().err
  assert (
    f'{folder}/images' in line and 'name the folder of the images with --config.data.dir' in line
  )
  assert (
    run('--mode=evaluate', f'--workdir={folder}/run', f'--config.data.dir={folder}/elsewhere') == 0
  )
  without_config = json.loads(capsys.readouterr().out)
  assert run('--mode=evaluate', *command, f'--config.data.dir={folder}/elsewhere') == 0
  scores = json.loads(capsys.readouterr().out)
  result = json.loads((folder / 'run' / 'result.json').read_text())
  assert scores['test_loss'] == pytest.approx(result['test_loss'], rel=1e-5)
  assert scores == without_config


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
  assert f'other classes than the data that {folder}/run was trained on (dog, wolf there, ' in line


def test_the_config_of_another_run_is_refused(trained, capsys):
  folder, command = trained
  words = [*command, f'--config.data.dir={folder}/elsewhere', '--config.optimizer.momentum=0.5']
  assert run('--mode=evaluate', *words) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'optimizer.momentum: 0.9 there, 0.5 asked' in line


def test_classes_of_another_number_are_refused_by_their_names(trained, tmp_path, capsys):
  folder, command = trained
  paint(tmp_path / 'many', seed=2, classes=tuple('abcdefg'))
  for own in (command, [f'--workdir={folder}/run']):
    assert run('--mode=evaluate', *own, f'--config.data.dir={tmp_path}/many') == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
      f'error: {tmp_path}/many has other classes than the data that {folder}/run was trained on '
      '(a, b, c, d, e and 2 more there, cat, dog in the run); choose data of the same classes'
    )


@pytest.mark.parametrize('side', [8, 40])
def test_other_images_are_scored_at_the_size_of_the_run(trained, tmp_path, side, capsys):
  folder, command = trained
  paint(tmp_path / 'other', seed=2, side=side)
  scores = []
  for own in (command, [f'--workdir={folder}/run'], [*command, '--config.data.size=8']):
    assert run('--mode=evaluate', *own, f'--config.data.dir={tmp_path}/other') == 0
    captured = capsys.readouterr()
    scores.append(json.loads(captured.out))
    size = 8 if '--config.data.size=8' in own else 16
    assert f'{size} x {size} pixels' in captured.err or scores[1:]  # A line is told once.
  assert scores[0] == scores[1] != scores[2]


def test_a_folder_of_test_images_alone_is_scored(trained, tmp_path, capsys):
  folder, command = trained
  paint(tmp_path / 'only', seed=2, splits=('test', 'val'))
  where = f'--config.data.dir={tmp_path}/only'
  for own in (
    command,
    [f'--workdir={folder}/run'],
    [*command, '--config.train.class_weights=True'],
  ):
    code = run('--mode=evaluate', *own, where)
    captured = capsys.readouterr()
    if 'class_weights' in own[-1]:  # The config of another run.
      assert code == 2 and 'train.class_weights: False there, True asked' in captured.err
    else:
      assert code == 0 and json.loads(captured.out)['test_count'] == 16
  assert run('--mode=evaluate', *command, where, '--split=train') == 2
  assert 'has no folder train (it holds test, val)' in capsys.readouterr().err
  (tmp_path / 'only/test/dog').rename(tmp_path / 'dog')
  assert run('--mode=evaluate', *command, where) == 2
  assert 'at least two' in capsys.readouterr().err


def test_the_data_of_a_run_alone_can_be_set_without_its_config(trained, capsys):
  folder, _ = trained
  for words, message in (
    (
      ['--config.train.steps=9'],
      'the config of the run in .*, of which only --config.data.<field>',
    ),
    (
      ['--config.data.dri=x'],
      r'unknown field --config.data.dri; did you mean --config.data.dir=x\?',
    ),
    (['--config.data.dir=x', '--mode=predict'], 'needs a config .* run that exists take fields'),
  ):
    assert run('--mode=evaluate', f'--workdir={folder}/run', *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line


def test_a_finished_run_is_told_where_its_images_are(trained, tmp_path, capsys):
  folder, _ = trained
  shutil.copytree(folder / 'run', tmp_path / 'run')
  where = f'--config.data.dir={folder}/elsewhere'
  assert run(f'--workdir={tmp_path}/run', where) == 0
  assert run('--mode=evaluate', f'--workdir={tmp_path}/run') == 0
  assert run(f'--workdir={tmp_path}/run', f'--config.data.dir={folder}/others') == 2
  assert 'another data.dir must hold the same images' in capsys.readouterr().err


def test_the_scores_are_said_in_words_beside_the_numbers(trained, tmp_path, capsys):
  folder, command = trained
  where = (f'--config.data.dir={folder}/others', f'--output={tmp_path}')
  assert run('--mode=evaluate', *command, *where, '--split=validation') == 0
  captured = capsys.readouterr()
  scores = json.loads(captured.out)
  lines = captured.err.splitlines()[-3:]
  top1 = f'{100 * scores["validation_top1"]:.1f} %'
  assert re.match(
    rf'validation: top1 {top1} \(95 % interval [\d.]+ to [\d.]+ %, 16 images\)', lines[0]
  )
  assert lines[2] == f'files: {tmp_path}/evaluation.json holds all scores'
