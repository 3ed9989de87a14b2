"""Damaged run folders: one line that names the file, exit code 2, and nothing lost."""

import errno
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import run_files
from PIL import Image

from attn_flax.commands import command_line
from attn_flax.training import artifacts

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
  f'--config={ROOT}/configs/resnet.py:smoke',
  '--config.model.depths=(1,)',
  '--config.model.widths=(8,)',
  '--config.train.steps=6',
  '--config.checkpoint.every_steps=2',
  '--config.log_every=1',
)


@pytest.fixture(scope='module')
def finished(small_dataset, quick_compilation, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('finished') / 'run'
  assert command_line.run(['main.py', *TINY, f'--workdir={workdir}']) == 0
  return workdir


@pytest.fixture
def damaged(finished, tmp_path):
  """A copy to be damaged, with an image beside it."""
  Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / 'image.png')
  return pathlib.Path(shutil.copytree(finished, tmp_path / 'run'))


def write(name, content):
  return lambda workdir: (workdir / name).write_text(content)


def edit(name, **fields):
  def change(workdir):
    path = workdir / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))

  return change


def without(name):
  def change(workdir):
    config = json.loads((workdir / 'config.json').read_text())
    del config['config'][name]
    (workdir / 'config.json').write_text(json.dumps(config))

  return change


def is_folder(name):
  def change(workdir):
    (workdir / name).unlink()
    (workdir / name).mkdir()

  return change


def field(path, value):
  def change(workdir):
    content = json.loads((workdir / 'config.json').read_text())
    *sections, name = path.split('.')
    holder = content['config']
    for section in sections:
      holder = holder[section]
    holder[name] = value
    (workdir / 'config.json').write_text(json.dumps(content))

  return change


def is_pipe(name):
  """Reading a pipe would wait forever."""

  def change(workdir):
    for path in workdir.glob(name):
      path.unlink()
      os.mkfifo(path)

  return change


def unfinished(change):
  def both(workdir):
    change(workdir)
    (workdir / 'result.json').unlink(missing_ok=True)

  return both


PREDICT = ('--mode=predict', '--images={folder}/image.png')
EVALUATE = ('--mode=evaluate',)
CASES = [
  *[
    (PREDICT, write('config.json', text), 'config.json')
    for text in ('[]', '{}', '{"config": 3}', '{"config": {}}', '', '\x00', 'nonsense')
  ],
  (EVALUATE, write('config.json', '[]'), 'config.json'),
  (TINY, write('config.json', '{}'), 'config.json'),
  ((), write('config.json', '{"config": {}}'), 'config.json'),
  (EVALUATE, without('seed'), 'config.json'),
  (EVALUATE, without('model'), "config.json lacks the config section 'model'"),
  (EVALUATE, is_folder('config.json'), 'config.json'),
  *[(PREDICT, write('dataset.json', text), 'dataset.json') for text in ('[]', '{}', '', '3')],
  (PREDICT, edit('dataset.json', std=[0, 0, 0]), 'dataset.json has std=[0, 0, 0]'),
  (PREDICT, edit('dataset.json', std=[float('nan')] * 3), 'dataset.json has std='),
  (PREDICT, edit('dataset.json', mean='x'), "dataset.json has mean='x'"),
  (PREDICT, edit('dataset.json', image_shape=[0, 0, 3]), 'dataset.json has image_shape'),
  (PREDICT, edit('dataset.json', class_names=3), 'dataset.json has class_names=3'),
  (PREDICT, edit('dataset.json', resize=None), 'dataset.json has resize=None'),
  (PREDICT, edit('dataset.json', image_shape=[32.0, 32, 3]), 'dataset.json has image_shape'),
  (PREDICT, edit('dataset.json', mean=[10**400] * 3), 'dataset.json has mean='),
  (PREDICT, edit('dataset.json', class_names=list('abc')), 'differs from the 3 of the dataset'),
  (PREDICT, field('model.widths', [16]), 'describe another network than its checkpoints hold'),
  (PREDICT, field('model.widths', 'x'), 'widths'),
  (PREDICT, field('train', 3), "config.json lacks the config section 'train'"),
  (PREDICT, field('task', 3), 'has a value of the wrong type in task;'),
  (
    EVALUATE,
    field('optimizer.step_epochs', 3),
    'has a value of the wrong type in optimizer.step_epochs;',
  ),
  (
    EVALUATE,
    field('optimizer.nesterov', 'x'),
    'has a value of the wrong type in optimizer.nesterov;',
  ),
  (EVALUATE, field('eval.batch_size', 2.5), 'has a value of the wrong type in eval.batch_size;'),
  (EVALUATE, field('seed', [1]), 'has a value of the wrong type in seed;'),
  (PREDICT, write('config.json', '[' * 100_000), 'config.json'),
  *[
    (command, is_pipe(name), f'{name} cannot be read')
    for command, name in (
      (PREDICT, 'config.json'),
      (TINY, 'config.json'),
      (PREDICT, 'dataset.json'),
      (TINY, 'result.json'),
    )
  ],
  *[(TINY, write('result.json', text), 'result.json') for text in ('[]', '', 'null', '3')],
  (EVALUATE, lambda workdir: shutil.rmtree(workdir / 'checkpoints'), 'holds no checkpoints'),
  (
    TINY,
    unfinished(lambda workdir: shutil.rmtree(workdir / 'checkpoints')),
    'holds the log of 6 updates and no checkpoint',
  ),
  (
    TINY,
    unfinished(lambda w: [shutil.rmtree(p) for p in (w / 'checkpoints').iterdir()]),
    'holds the log of 6 updates and no checkpoint',
  ),
]


@pytest.mark.parametrize(('command', 'change', 'text'), CASES)
def test_damage_is_one_line(command, change, text, damaged, capsys):
  change(damaged)
  words = [word.format(folder=damaged.parent) for word in command]
  assert command_line.run(['main.py', *words, f'--workdir={damaged}']) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ') and text in line and str(damaged) in line


def test_what_no_config_may_hold_is_named(damaged, capsys):
  field('augment.randaugment', -1)(damaged)
  assert command_line.run(['main.py', *EVALUATE, f'--workdir={damaged}']) == 2
  assert capsys.readouterr().err.startswith('error: augment.randaugment=-1 is impossible')


def test_a_checkpoint_of_pipes_is_damaged(damaged, capsys):
  """Reading a pipe would wait forever."""
  is_pipe('checkpoints/*/progress/metadata')(damaged)
  assert command_line.run(['main.py', *EVALUATE, f'--workdir={damaged}']) == 2
  *warnings, line = capsys.readouterr().err.splitlines()
  assert all('it is not a regular file' in warning for warning in warnings)
  assert line.startswith('error: ') and 'no checkpoint is whole' in line


def test_a_log_of_anything_is_read_for_what_it_holds(damaged, capsys):
  (damaged / 'result.json').unlink()
  with open(damaged / 'metrics.jsonl', 'ab') as file:
    file.write(b'{"step": Infinity}\n{"step": 7, "loss": "x"}\n[1]\n\xff\n' + b'[' * 100_000)
  assert command_line.run(['main.py', *TINY, f'--workdir={damaged}']) == 0
  assert artifacts.read_metrics(damaged)[-1]['step'] == 6


def test_restart_needs_the_checkpoints_out_of_the_way(damaged, capsys, monkeypatch):
  """Otherwise the new run would continue from them."""
  rename = pathlib.Path.rename

  def refuse(path, target):
    if path.name == 'checkpoints':
      raise PermissionError(errno.EPERM, 'Operation not permitted', str(path))
    return rename(path, target)

  monkeypatch.setattr(pathlib.Path, 'rename', refuse)
  before = {path: path.read_bytes() for path in damaged.rglob('*') if path.is_file()}
  assert command_line.run(['main.py', *TINY, '--restart', f'--workdir={damaged}']) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'checkpoints cannot be removed (Operation not permitted)' in line
  after = {path: path.read_bytes() for path in before if path.exists()}
  assert after.keys() == before.keys() and (damaged / 'checkpoints').is_dir()


def test_restart_removes_all_that_a_run_writes(finished):
  left = {path.name for path in finished.iterdir()} - {*artifacts.File, *artifacts.Folder}
  assert left <= {'.lock'}


def test_restart_leaves_no_result_of_the_run_before(damaged):
  for name in ('evaluation.json', 'explanations.json', 'explanations.png', 'predictions.npz'):
    (damaged / name).write_text('old')
  (damaged / 'explanations').mkdir()
  (damaged / 'notes.txt').write_text('mine')
  assert command_line.run(['main.py', *TINY, '--restart', f'--workdir={damaged}']) == 0
  left = {path.name for path in damaged.iterdir()}
  assert 'notes.txt' in left and not left & {
    *('evaluation.json', 'explanations.json', 'explanations.png', 'explanations'),
    'checkpoints.removed',
  }


def test_a_run_that_has_saved_once_does_not_begin_again_without_a_word(tmp_path, capsys):
  """The log is too short to show the save; the file `File.SAVED` shows it."""
  command = [word for word in TINY if 'every_steps' not in word]
  run = tmp_path / 'run'
  assert command_line.run(['main.py', *command, f'--workdir={run}']) == 0
  (run / 'result.json').unlink()
  shutil.rmtree(run / 'checkpoints')
  capsys.readouterr()
  assert command_line.run(['main.py', *command, f'--workdir={run}']) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'no checkpoint' in line and '--restart' in line
  assert command_line.run(['main.py', *command, '--restart', f'--workdir={run}']) == 0


def test_restart_begins_again(damaged, finished):
  """With the same result; files that are not of the run stay."""
  shutil.rmtree(damaged / 'checkpoints')
  (damaged / 'notes.txt').write_text('mine')
  assert command_line.run(['main.py', *TINY, '--restart', f'--workdir={damaged}']) == 0
  assert run_files.scores(damaged) == run_files.scores(finished)
  assert (damaged / 'notes.txt').read_text() == 'mine'


def test_a_damaged_latest_checkpoint_costs_its_updates_alone(damaged, finished, capsys):
  """The run continues from the one before, and ends with the same result."""
  (damaged / 'result.json').unlink()
  (array, *_) = sorted(
    (damaged / 'checkpoints' / '6' / 'state').rglob('d/*'), key=lambda p: -p.stat().st_size
  )
  content = bytearray(array.read_bytes())
  content[len(content) // 2] ^= 1
  array.write_bytes(bytes(content))
  assert command_line.run(['main.py', *TINY, f'--workdir={damaged}']) == 0
  captured = capsys.readouterr()
  assert 'step 6/6' in captured.out and 'step 5/6' not in captured.out
  assert 'checkpoints/6' in captured.err and 'checkpoint 5 is used instead' in captured.err
  run_files.assert_same_arrays(run_files.state(damaged, 6), run_files.state(finished, 6))
  assert run_files.scores(damaged) == run_files.scores(finished)
  assert run_files.metrics(damaged) != [] and run_files.steps(damaged) == run_files.steps(finished)


def test_results_may_go_elsewhere(damaged, tmp_path):
  before = sorted(p for p in damaged.rglob('*'))
  output = tmp_path / 'output'
  for words in (EVALUATE, ('--mode=explain', f'--images={tmp_path}/image.png')):
    assert command_line.run(['main.py', *words, f'--workdir={damaged}', f'--output={output}']) == 0
  assert {p.name for p in output.iterdir()} == {
    'evaluation.json',
    'explanations',
    'explanations.json',
  }
  assert sorted(p for p in damaged.rglob('*')) == before


@pytest.mark.parametrize('mode', ['evaluate', 'explain'])
def test_where_nothing_can_be_written_nothing_is_computed(mode, damaged, tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  words = [f'--mode={mode}', f'--workdir={damaged}', f'--output={tmp_path}/file/output']
  words += [f'--images={tmp_path}/image.png'] if mode == 'explain' else []
  assert command_line.run(['main.py', *words]) == 2
  captured = capsys.readouterr()
  assert captured.out == '' and 'name another one with --output' in captured.err


def test_reports_hold_no_home_folder(monkeypatch):
  from attn_flax.training.environment import without_home

  monkeypatch.setenv('HOME', '/home/ada')
  assert without_home('main.py --workdir=/home/ada/runs') == 'main.py --workdir=~/runs'
  monkeypatch.setenv('HOME', '/')
  assert without_home('main.py --workdir=/a') == 'main.py --workdir=/a'
