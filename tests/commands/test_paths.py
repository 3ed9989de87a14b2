"""Unusual paths, in every flag and field that takes one."""

import pwd
import unicodedata

import numpy as np
import pytest
import tiny_torch
from PIL import Image

from attn_flax import UserError
from attn_flax.commands import command_line, configs, flags
from attn_flax.commands.typed import Paths
from attn_flax.data.sources.folder import check
from attn_flax.training import artifacts, run_folder
from attn_flax.training.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures('small_dataset', 'quick_compilation')

TINY = (
  '--config=configs/eca.py:smoke',
  '--config.model.depths=(1,)',
  '--config.model.widths=(8,)',
  '--config.train.steps=2',
  '--config.train.batch_size=8',
)
# For each flag, the mode in which it is tested, and the other words that a command needs.
PATHS = {
  'workdir': ['--mode=evaluate'],
  'output': ['--mode=evaluate', '--workdir=x'],
  'images': ['--mode=predict', '--workdir=x'],
  'workdirs': ['--mode=compare'],
  'torch': ['--mode=import', '--workdir=x'],
  'published': ['--mode=cost'],
  'config.init_from': list(TINY),
  'config.data.dir': list(TINY),
}
# Names with characters that are special in shells, patterns, URLs or terminals.
NAMES = ('a b', ' a', 'a%20b', 'a#b', 'a:b', 'gs:x', '{a}', '$HOME', 'a]b', '猫', '"a"', "it's")
NAMES += (unicodedata.normalize('NFC', 'é'), unicodedata.normalize('NFD', 'é'), 'a' * 255)


def run(*arguments):
  return command_line.run(['main.py', *map(str, arguments)])


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
  """An empty working directory."""
  (tmp_path / 'configs').symlink_to(configs.folder())
  monkeypatch.chdir(tmp_path)
  return tmp_path


def made(folder):
  return [path.name for path in folder.iterdir() if path.name != 'configs']


def test_every_flag_that_takes_a_path_is_tried():
  assert {flag.name for flag in flags.FLAGS if flag.is_path} == {
    name for name in PATHS if not name.startswith('config.')
  }


@pytest.mark.parametrize('flag', [flag for flag in PATHS if not flag.startswith('config.')])
def test_the_home_sign_is_the_home_folder(flag, tmp_path, monkeypatch):
  """Shells expand `~` only at the beginning of a word."""
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  values = flags.define(['main.py'])
  values(['main.py', *PATHS[flag], f'--{flag}=~/a'])
  flags.expand_paths(values)
  found = values[flag].value
  assert found in (f'{tmp_path}/home/a', [f'{tmp_path}/home/a'])


def test_the_home_sign_of_a_config_is_the_home_folder(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'mine.py').write_text('from configs.eca import get_config')
  assert run('--mode=train', '--help', '--config=~/mine.py') == 0
  assert 'config.model.attention.branch.kernel_size' in capsys.readouterr().out


@pytest.mark.parametrize('flag', PATHS)
@pytest.mark.parametrize('path', ['gs://bucket/a', 's3://bucket/a', '~nobody_at_all/a'])
def test_what_is_no_local_path_is_refused_in_a_line_that_names_the_flag(
  flag, path, empty_folder, capsys
):
  command = [word for word in PATHS[flag] if not word.startswith(f'--{flag}=')]
  assert run(*command, f'--{flag}={path}') == 2
  line, *more = [
    line for line in capsys.readouterr().err.splitlines() if not line.startswith('Preparing')
  ]
  assert line.startswith('error: ') and not more
  assert path in line and flag in line
  assert not made(empty_folder)


def test_a_page_of_the_web_is_to_be_downloaded(capsys):
  assert run('--mode=predict', '--workdir=runs/a', '--images=https://example.org/cat.jpg') == 2
  assert 'download it and name the copy' in capsys.readouterr().err


@pytest.mark.parametrize('name', NAMES)
def test_checkpoints_in_a_folder_of_any_name_can_be_read(name, tmp_path):
  state = {'params': {'w': np.arange(3.0)}, 'batch_stats': {}}
  written = Checkpoints(tmp_path / name)
  written.save(1, state, {'train_seconds': 0.0}, None)
  written.close()
  read = Checkpoints(tmp_path / name, read_only=True)
  assert read.read_weights(read.steps()[-1])['params']['w'].tolist() == [0, 1, 2]
  read.close()


@pytest.mark.parametrize('name', ['lr[0.1]', '[old] runs/a', 'a\\b', 'a*', 'a?'])
@pytest.mark.parametrize(
  'command',
  [
    TINY,
    ('--mode=compare', '--config=configs/compare.py:smoke'),
    ('--mode=import', '--config=configs/base.py', '--torch={weights}'),
  ],
)
def test_a_folder_whose_checkpoints_could_not_be_read_is_refused_at_once(
  name, command, empty_folder, tmp_path_factory, capsys
):
  """Orbax would save without an error, but not find the checkpoints again."""
  weights = tmp_path_factory.mktemp('weights') / 'weights.npz'
  np.savez(weights, **tiny_torch.weights())
  assert run(*(word.format(weights=weights) for word in command), f'--workdir={name}') == 2
  line, *more = capsys.readouterr().err.splitlines()
  assert 'could not be read again' in line and not more
  assert not made(empty_folder)


def test_a_run_that_is_moved_to_such_a_folder_is_read(tmp_path):
  state = {'params': {'w': np.arange(3.0)}, 'batch_stats': {}}
  written = Checkpoints(tmp_path / 'a')
  written.save(1, state, {'train_seconds': 0.0}, None)
  written.close()
  moved = (tmp_path / 'a').rename(tmp_path / 'a[0]')
  read = Checkpoints(moved, read_only=True)
  assert read.read_weights(1)['params']['w'].tolist() == [0, 1, 2]
  read.close()
  with pytest.raises(UserError, match=r'its path contains \\'):
    Checkpoints((tmp_path / 'a[0]').rename(tmp_path / 'a\\b'), read_only=True)


def test_a_name_that_the_file_system_does_not_take_is_one_line(empty_folder, capsys):
  assert run(*TINY, f'--workdir={"a" * 256}') == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'File name too long' in line
  assert not made(empty_folder)


def test_without_a_home_folder_nothing_is_remembered_and_that_is_all(tmp_path, monkeypatch):
  def unknown(_):
    raise KeyError('uid not found')

  for name in ('HOME', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pwd, 'getpwuid', unknown)
  monkeypatch.setattr(check, '_WORTH_KEEPING_S', 0.0)
  Image.new('RGB', (8, 9)).save(tmp_path / 'a.png')
  assert check.check(tmp_path, ['a.png'], 100)['a.png'][:3] == (9, 8, '')
  artifacts.write_json(tmp_path / 'run' / 'config.json', run_folder.environment())


@pytest.mark.parametrize(
  ('typed', 'paths'),
  [
    ('wide photo, 1.jpg', ['wide photo, 1.jpg']),
    ('b.jpg,wide photo, 1.jpg,b.jpg', ['b.jpg', 'wide photo, 1.jpg', 'b.jpg']),
    ('a,b/c.jpg', ['a,b/c.jpg']),
    ('b.jpg, missing.jpg', ['b.jpg', 'missing.jpg']),
    ('missing.jpg,', ['missing.jpg', '']),
  ],
)
def test_the_name_of_a_file_may_hold_commas(typed, paths, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('wide photo, 1.jpg', 'b.jpg', 'a,b/c.jpg'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  assert Paths().parse(typed) == paths
