"""The command `attn_flax` of an installed package."""

import sys


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
  sys.unraisablehook = lambda _: None  # What Orbax leaves behind after an error that it raises.
  stopping.watch_process()
  return run(sys.argv)
