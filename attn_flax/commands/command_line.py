"""Reads a command line, runs its mode, and turns mistakes into one line and an exit code."""

import contextlib
import importlib
import io
import logging as python_logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import flags, logging

from attn_flax.attention.names import look_in_working_directory
from attn_flax.commands import config_help, configs, streams
from attn_flax.commands.flags import (
  FLAGS,
  MODES,
  check_mode,
  define,
  expand_paths,
  help_text,
  parse,
)
from attn_flax.commands.typed import plain
from attn_flax.errors import UserError
from attn_flax.training import program_cache
from attn_flax.training.distributed import joining
from attn_flax.training.stopping import Stopped

# The module of each mode; its function `run` takes the flags.
_MODULES = {mode: mode for mode in MODES} | {'import': 'import_torch'}
_JOINING = ('coordinator', 'num_processes', 'process_id', 'join_seconds')
# Fields that may differ between the processes of a run: each machine may keep the data elsewhere.
_OF_ONE_PROCESS = ('config.data.dir', 'config.data.download', 'config.data.workers')
_SIGNALED = 128  # As in a shell, the exit code after a signal is 128 plus its number.


def run(argv: Sequence[str]) -> int:
  """Runs one command line.

  Returns:
    The exit code: 0, 2 after a user's mistake, or 128 plus the signal's number if stopped.
  """
  look_in_working_directory()
  if isinstance(sys.stdout, io.TextIOWrapper):  # A terminal may be unable to show a file's name.
    sys.stdout.reconfigure(errors='backslashreplace')
  try:
    argv = flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False)
    configs.check_given(argv)
    argv = configs.without_repeats(argv)
    values = define(argv)
    parse(values, argv)
    if values.help:
      _print_help(values)
      return 0
    configs.settle(values)
    check_mode(values)
    expand_paths(values)
  except Exception as error:  # A config file is a program, which may raise anything.
    code = _fail(error)
    _tell_others(argv, _one_line(error))
    return code

  # Orbax and asyncio also log, with tracebacks, the errors that they raise.
  logging.set_verbosity(logging.FATAL)
  python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
  # Pillow's warnings are about images that it can read, and do not name them.
  warnings.filterwarnings('ignore', module=r'PIL\.')
  # A save that fails raises an error; coroutines that Orbax then leaves behind only cause warnings.
  warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)
  try:
    with _other_processes(values), _naming_memory():
      _check_devices()
      program_cache.use()
      importlib.import_module(f'attn_flax.commands.{_MODULES[values.mode]}').run(values)
  except UserError as error:
    return _fail(error)
  except BrokenPipeError:  # The reader, such as `head`, has closed the pipe.
    streams.silence(sys.stdout)
    return _SIGNALED + signal.SIGPIPE
  except OSError as error:
    what = error.strerror or error
    return _fail(UserError(f'{error.filename or "a file"} cannot be used: {what}; fix that first'))
  except Stopped as stopped:
    print(f'{stopped}; the same command goes on from there', file=sys.stderr)
    return _SIGNALED + stopped.number
  return 0


@contextlib.contextmanager
def _naming_memory() -> Iterator[None]:
  """Turns errors of memory that has run out into a `UserError` that says what to do."""
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    text = ' '.join(str(error).split())
    if not isinstance(error, MemoryError) and 'RESOURCE_EXHAUSTED' not in text:
      raise
    raise UserError(
      f'there is not enough memory ({text[:120] or "the machine has no more"}); lower '
      'train.batch_size or eval.batch_size, or raise train.accumulate'
    ) from error


def _other_processes(values: flags.FlagValues) -> contextlib.AbstractContextManager[None]:
  """Joins the other processes of a run, if the command line names any, for a `with` statement."""
  given: dict[str, Any] = {flag: values[flag].value for flag in _JOINING}
  if not values.distributed and all(values[flag].value is None for flag in _JOINING[:-1]):
    if values['join_seconds'].present:
      raise UserError('--join_seconds does nothing in a run of one process; leave it out')
    return contextlib.nullcontext()
  return joining.joined(joining.Place(**given), _about(values))


def _check_devices() -> None:
  """Raises `UserError` if the environment asks JAX for devices that do not exist."""
  asked = os.environ.get('JAX_PLATFORMS')
  if not asked:
    return
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:  # JAX raises either.
    extra = next((name for name in ('cuda', 'tpu') if name in asked), None)
    install = f", or install JAX for them: pip install 'attn_flax[{extra}]'" if extra else ''
    known = 'cpu, cuda and tpu are usual names'
    raise UserError(
      f'JAX_PLATFORMS={asked} asks for devices that JAX does not find; unset it to use those that '
      f'exist{install or f"; {known}"}'
    ) from error


def _tell_others(argv: Sequence[str], text: str) -> None:
  """Tells the other processes of a run that this command line has failed, and why."""
  found = re.findall(r'--?(coordinator|num_processes|process_id)[= ](\S+)', ' '.join(argv))
  given: dict[str, Any] = dict(found)
  if len(given) != len(_JOINING) - 1:
    return
  for name in ('num_processes', 'process_id'):
    if not given[name].isdecimal():
      return
    given[name] = int(given[name])
  joining.tell(joining.Place(**given), text)


def _about(values: flags.FlagValues) -> dict[str, object]:
  """The flags and fields, by name, that must be the same in all processes of a run."""
  # They load Optax and SciPy, for which `--help` need not wait another 0.8 s.
  from attn_flax.commands.workdir import workdir
  from attn_flax.training.run_folder import flatten

  about = {f'--{flag.name}': values[flag.name].value for flag in FLAGS if flag.name not in _JOINING}
  about['--mode'] = values.mode
  if values.config is not None:
    fields = flatten(values.config.to_dict(), 'config.')
    about |= {name: value for name, value in fields.items() if name not in _OF_ONE_PROCESS}
    about['--workdir'] = str(workdir(values))
  return about


def _print_help(values: flags.FlagValues) -> None:
  print(help_text(values.mode if values['mode'].present else None))
  if values['mode'].present and values.config is not None:
    print('\nThe fields of this config:\n\n' + config_help.describe(values.config))


def _fail(error: Exception) -> int:
  """Prints an error as one line; returns the exit code of a user's mistake."""
  print(f'error: {_one_line(error)}', file=sys.stderr, flush=True)
  return 2


def _one_line(error: Exception) -> str:
  # absl wraps errors that are raised while a flag is parsed.
  if not isinstance(error, UserError) and isinstance(error.__context__, UserError):
    error = error.__context__
  text = str(error.args[0] if isinstance(error, KeyError) else error)
  if isinstance(error, AttributeError | KeyError):
    text = f'unknown config field {text.strip(chr(34) + chr(39))}'
  if 'Traceback' in text:  # An error in a config file comes with its traceback; keep its last line.
    text = text.strip().splitlines()[-1].partition('Error: ')[2]
  return plain(' '.join(text.split()))
