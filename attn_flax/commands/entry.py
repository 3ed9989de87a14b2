"""The command `attn_flax` of an installed package."""

import asyncio
import atexit
import os
import sys
from typing import NoReturn

from attn_flax.commands import streams


def main() -> int:
  """Runs the command line; returns the exit code, 2 if only the library is installed."""
  try:
    from attn_flax.commands.command_line import run
    from attn_flax.training import allocator, stopping
  except ModuleNotFoundError as error:
    if (error.name or '').partition('.')[0] == 'attn_flax':
      raise
    print(
      f'error: the command needs the package {error.name!r}, which the library alone does not; '
      "install all that it needs: pip install 'attn_flax[train]'",
      file=sys.stderr,
    )
    return 2
  streams.open_missing()
  allocator.keep_freed_pages()  # Before the first thread starts.
  sys.unraisablehook = _report
  stopping.watch_process()
  code = run(sys.argv)
  streams.flush()
  if code:
    _leave(code)
  return code


def _leave(code: int) -> NoReturn:
  """Ends the process without waiting for its threads.

  After a failed save, threads of Orbax wait for minutes for signals that never come.
  """
  atexit._run_exitfuncs()
  streams.flush()
  os._exit(code)


def _report(unraisable: 'sys.UnraisableHookArgs') -> None:
  """Reports an error that no code can catch, except those that follow an error of Orbax.

  Orbax then leaves coroutines behind whose event loop is closed when they are garbage-collected, or
  an event loop that was never set up because too many files were open.
  """
  error = unraisable.exc_value
  is_closed = isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'
  if not is_closed and unraisable.object is not asyncio.BaseEventLoop.__del__:
    sys.__unraisablehook__(unraisable)
