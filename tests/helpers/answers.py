"""The errors of command lines."""

import contextlib
import os
import pathlib

from attn_flax.commands import command_line


def error_of(capsys, *words):
  """The one-line error of a command."""
  assert command_line.run(['main.py', *words]) == 2
  out, err = capsys.readouterr()
  (line,) = err.splitlines()
  assert line.startswith('error: ') and not out
  return line


@contextlib.contextmanager
def nothing_written(folder):
  """Changes to a folder, and checks that nothing is left behind in it."""
  before = os.getcwd()
  os.chdir(folder)
  try:
    yield
  finally:
    os.chdir(before)
  assert list(pathlib.Path(folder).iterdir()) == []
