"""What a command line answers to a mistake."""

import contextlib
import os
import pathlib

import main


def error_of(capsys, *words):
  """The one line of a command that is refused."""
  assert main.run(['main.py', *words]) == 2
  out, err = capsys.readouterr()
  (line,) = err.splitlines()
  assert line.startswith('error: ') and not out
  return line


@contextlib.contextmanager
def nothing_written(folder):
  """Works in a folder, in which nothing is left behind."""
  before = os.getcwd()
  os.chdir(folder)
  try:
    yield
  finally:
    os.chdir(before)
  assert list(pathlib.Path(folder).iterdir()) == []
