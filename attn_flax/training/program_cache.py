"""Keeps compiled programs between commands, so that a second one starts its first step at once.

JAX's persistent compilation cache does the work, in a folder that is chosen here. Programs for a
CPU use all the instructions that it has, so that each kind of CPU has a folder of its own.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import warnings
from collections.abc import Iterator

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache

from attn_flax.files import user_cache

_MOST_BYTES = 2**30  # Of all programs; those unused for longest are removed.
_LEAST_SECONDS = 0.3  # Programs that compile faster are not kept.
_LOCK_SECONDS = 5


def use() -> pathlib.Path | None:
  """Has JAX keep compiled programs in the user's cache folder.

  A user who has chosen another folder with JAX_COMPILATION_CACHE_DIR, or no cache with
  JAX_ENABLE_COMPILATION_CACHE=false, keeps that choice.

  Returns:
    The folder; None where no programs are kept in it, because it cannot be written to, or belongs
    to somebody else, whose programs this process must not run.
  """
  if jax.config.values['jax_compilation_cache_dir'] or not _enabled():
    return None
  base = user_cache()
  if base is None:
    return None
  folder = base / f'programs-{jax.__version__}-{_machine()}'
  try:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
      return None
    _remove_halves(folder)
  except OSError:
    return None
  # A program that cannot be kept, as on a full disk, or read again is compiled, and that is all.
  warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation cache')
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_compilation_cache_max_size', _MOST_BYTES)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', _LEAST_SECONDS)
  return folder


@contextlib.contextmanager
def bypassed() -> Iterator[None]:
  """Compiles all programs anew inside a `with` statement, for the time that it takes."""
  enabled = _enabled()
  _enable(False)
  try:
    yield
  finally:
    _enable(enabled)


def _enabled() -> bool:
  return bool(jax.config.values['jax_enable_compilation_cache'])


def _enable(enabled: bool) -> None:
  jax.config.update('jax_enable_compilation_cache', enabled)
  compilation_cache.reset_cache()  # It asks for the setting only once.


def _remove_halves(folder: pathlib.Path) -> None:
  """Removes what a process that was killed has written of a program.

  JAX writes the program, then the time of its use, while it holds the lock of the folder.

  Raises:
    OSError: the folder cannot be written to, or is locked for too long.
  """
  with filelock.FileLock(folder / '.lockfile', timeout=_LOCK_SECONDS):
    for program in folder.glob('*-cache'):
      used = program.with_name(program.name.removesuffix('-cache') + '-atime')
      if not used.exists() or used.stat().st_size != 8:
        program.unlink()


def _machine() -> str:
  """A digest of what programs for this CPU depend on."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text()
    lines = [line for line in text.splitlines() if line.startswith(('flags', 'Features'))]
  except OSError:
    lines = []
  return hashlib.sha256('\n'.join([platform.machine(), *lines[:1]]).encode()).hexdigest()[:12]
