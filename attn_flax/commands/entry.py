"""The command `attn_flax` of an installed package."""

import sys
from typing import Any


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
  allocator.keep_freed_pages()  # Before the first thread starts.
  sys.unraisablehook = _report
  stopping.watch_process()
  return run(sys.argv)


def _report(unraisable: Any) -> None:
  """Reports an error that no code can catch, but not those after an error that Orbax raises.

  It then leaves coroutines behind, which find their event loop closed when they are collected.
  """
  error = unraisable.exc_value
  if not (isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'):
    sys.__unraisablehook__(unraisable)
