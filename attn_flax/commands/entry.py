"""The command `attn_flax` of an installed package."""

import asyncio
import atexit
import os
import sys
from typing import Any, NoReturn

from attn_flax.commands import streams


def main() -> int:
  """Runs the command line; says which extra is missing where only the library is installed."""
  try:
    from attn_flax.commands.command_line import run
    from attn_flax.training import allocator, stopping
  except ModuleNotFoundError as error:
    if (error.name or '').partition('.')[0] == 'attn_flax':
      raise
    print(
      f'error: the command takes the package {error.name!r}, which the library alone does not; '
      "install all that it takes: pip install 'attn_flax[train]'",
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

  Where a save has failed, those of Orbax wait for minutes for signals that nobody gives.
  """
  atexit._run_exitfuncs()
  streams.flush()
  os._exit(code)


def _report(unraisable: Any) -> None:
  """Reports an error that no code can catch, but not those after an error that Orbax raises.

  It then leaves coroutines behind, which find their event loop closed when they are collected, or
  a loop for which there were too few files to begin with.
  """
  error = unraisable.exc_value
  is_closed = isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'
  if not is_closed and unraisable.object is not asyncio.BaseEventLoop.__del__:
    sys.__unraisablehook__(unraisable)
