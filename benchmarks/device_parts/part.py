"""A part of `benchmarks/accelerator.py`: its time, and its rows, which are written as they come."""

import argparse
import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator

from tables import conditions, write_rows


class Part:
  """The time and the table of a part, which is a program of its own.

  Attributes:
    small: whether sizes are tiny, for a test.
  """

  def __init__(self, about: str):
    """Reads the command line of the program; `about` describes it."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument('--seconds', type=float, default=600, help='Time that the part may take.')
    parser.add_argument('--out', default='', help='Folder of the CSV; empty: do not write it.')
    parser.add_argument('--small', action='store_true', help='Tiny sizes.')
    given = parser.parse_args()
    self.small: bool = given.small
    self._end = time.monotonic() + given.seconds
    self._rows: list[dict] = []
    self._path = None
    if given.out:
      name = f'accelerator_{pathlib.Path(sys.argv[0]).stem}-{conditions()}.csv'
      self._path = pathlib.Path(given.out) / name

  def left(self) -> float:
    """Seconds that are left."""
    return self._end - time.monotonic()

  def add(self, **row: object) -> None:
    """Adds a row to the table, and writes it at once."""
    self._rows.append({name: _digits(value) for name, value in row.items()})
    print(self._rows[-1], flush=True)
    if self._path is not None:
      write_rows(self._path, self._rows)

  @contextlib.contextmanager
  def trying(self, what: str, needs: float = 0.0) -> Iterator[bool]:
    """Runs the body, and adds a row with the reason where it fails or is to be left out.

    Args:
      what: the name of the row.
      needs: seconds that it takes.

    Yields:
      Whether there is time; the body leaves its work out if there is not.
    """
    if self.left() < needs:
      self.add(what=what, skipped=f'{self.left():.0f} s are left, it takes {needs:.0f}')
      yield False
      return
    try:
      yield True
    except Exception as error:  # Whatever a new device says: the rest of the part goes on.
      text = ' '.join(str(error).split())[:160]
      self.add(what=what, skipped=f'{type(error).__name__}: {text}')


def _digits(value: object) -> object:
  """A number with four digits; everything else as it is."""
  return float(f'{value:.4g}') if isinstance(value, float) else value
