"""Compiled programs are kept between commands."""

import os
import pathlib
import subprocess
import sys
import warnings

import filelock
import jax
import pytest

from attn_flax.training import program_cache

ROOT = pathlib.Path(__file__).parents[2]
# Compiles one program in a process of its own, and prints the folder.
COMPILE = """
import jax
from attn_flax.training import program_cache
program_cache._LEAST_SECONDS = 0
print(program_cache.use())
{within}
  jax.jit(lambda x: x @ x)(jax.numpy.ones((3, 3)))
"""


def start(cache, within='if True:'):
  """The folder that a process prints which compiles a program."""
  usual = {k: v for k, v in os.environ.items() if not k.startswith(('JAX_COMPILATION', 'JAX_PERS'))}
  done = subprocess.run(
    [sys.executable, '-c', COMPILE.format(within=within)],
    env=usual | {'XDG_CACHE_HOME': str(cache), 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert not done.stderr
  return pathlib.Path(done.stdout.strip())


def programs(folder):
  return [path for path in folder.glob('*-cache') if path.name.startswith('jit__lambda')]


def time_of_use(program):
  return program.with_name(program.name.removesuffix('-cache') + '-atime')


def test_a_second_process_reads_what_the_first_compiled(tmp_path):
  folder = start(tmp_path, within='with program_cache.bypassed():')
  assert folder.parent == tmp_path / 'attn_flax' and folder.stat().st_mode & 0o77 == 0
  assert programs(folder) == []
  assert start(tmp_path) == folder
  (program,) = programs(folder)
  kept, used = program.read_bytes(), time_of_use(program).read_bytes()
  # JAX notes the use of a program that it finds, and writes none that exists.
  start(tmp_path)
  assert programs(folder) == [program] and program.read_bytes() == kept
  assert time_of_use(program).read_bytes() != used
  program.write_bytes(b'damaged')  # Compiled again, without a word.
  start(tmp_path)


@pytest.fixture
def use(tmp_path, monkeypatch):
  """`program_cache.use`, in a session without a folder of its own."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  names = 'compilation_cache_dir', 'compilation_cache_max_size', 'enable_compilation_cache'
  names += ('persistent_cache_min_compile_time_secs',)
  before = {f'jax_{name}': jax.config.values[f'jax_{name}'] for name in names}
  jax.config.update('jax_compilation_cache_dir', None)
  with warnings.catch_warnings():
    yield program_cache.use
  for name, value in before.items():
    jax.config.update(name, value)


def test_what_a_killed_process_left_is_removed(use):
  folder = use()
  for name in ('whole', 'half'):
    (folder / f'{name}-cache').write_bytes(b'program')
  (folder / 'whole-atime').write_bytes(bytes(8))
  jax.config.update('jax_compilation_cache_dir', None)
  assert use() == folder
  assert [path.name for path in folder.glob('*-cache')] == ['whole-cache']


def test_a_folder_and_a_switch_of_ones_own_are_kept(use, tmp_path):
  jax.config.update('jax_enable_compilation_cache', False)
  assert use() is None
  jax.config.update('jax_enable_compilation_cache', True)
  jax.config.update('jax_compilation_cache_dir', 'own')
  assert use() is None and jax.config.jax_compilation_cache_dir == 'own'
  assert not list(tmp_path.iterdir())


def test_it_stays_optional(use, tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'getuid', lambda: os.stat(tmp_path).st_uid + 1)
  assert use() is None  # The folder belongs to somebody else.
  monkeypatch.undo()
  monkeypatch.setenv('XDG_CACHE_HOME', '/proc/nowhere')
  assert use() is None
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setattr(pathlib.Path, 'home', classmethod(_no_home))
  assert use() is None


def _no_home(cls):
  raise RuntimeError('Could not determine home directory.')


def test_a_folder_that_stays_locked_is_not_waited_for(use, monkeypatch):
  monkeypatch.setattr(program_cache, '_LOCK_SECONDS', 0.1)
  folder = use()
  jax.config.update('jax_compilation_cache_dir', None)
  with filelock.FileLock(folder / '.lockfile'):
    assert use() is None
