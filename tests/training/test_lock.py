"""One process writes to a folder at a time."""

import errno
import os
import pathlib
import platform
import subprocess
import sys

import pytest

from attn_flax.training import lock

ROOT = pathlib.Path(__file__).parents[2]
HOLDER = """
import pathlib, sys
from attn_flax.training.lock import locked
with locked(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
  """A folder that another process holds, and that process."""
  with subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(tmp_path / 'run')],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == 'held\n'
    yield tmp_path / 'run', process
    process.kill()


def test_the_second_process_learns_of_the_first(held):
  """And the lock ends with the process that held it, even if that was killed."""
  folder, process = held
  with pytest.raises(lock.Locked) as refused, lock.locked(folder):
    pass
  text = str(refused.value)
  assert f'process {process.pid} on {platform.node()}' in text and '\n' not in text
  process.kill()
  process.wait()
  with lock.locked(folder):
    pass


def test_a_lock_is_given_back(tmp_path):
  for _ in range(2):
    with lock.locked(tmp_path / 'new' / 'run'), pytest.raises(lock.Locked):
      with lock.locked(tmp_path / 'new' / 'run'):
        pass


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, capsys):
  def refuse(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(lock.fcntl, 'flock', refuse)
  with lock.locked(tmp_path):
    pass
  assert capsys.readouterr().err.count('cannot be locked (No locks available)') == 1


def test_a_folder_that_cannot_be_made_is_a_line(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(lock.UserError, match='cannot be written .*--workdir'):
    with lock.locked(tmp_path / 'file' / 'run'):
      pass


def test_folders_that_nothing_came_of_are_removed(tmp_path):
  """With their new parents; folders that existed before stay."""
  with lock.locked(tmp_path / 'runs' / 'study'):
    assert (tmp_path / 'runs' / 'study').is_dir()
  assert not list(tmp_path.iterdir())
  (tmp_path / 'runs').mkdir()
  with lock.locked(tmp_path / 'runs' / 'study'):
    pass
  assert [path.name for path in tmp_path.iterdir()] == ['runs']


def test_the_lock_of_a_folder_that_was_removed_is_none(tmp_path, monkeypatch):
  """Between opening and locking, another process may have removed the folder and made it again."""
  folder, take, calls = tmp_path / 'run', lock._take, []

  def take_late(file, path):
    if not calls:
      path.unlink()
      path.touch()
    calls.append(path)
    take(file, path)

  monkeypatch.setattr(lock, '_take', take_late)
  with lock.locked(folder):
    assert len(calls) == 2
    with pytest.raises(lock.Locked), lock.locked(folder):
      pass
