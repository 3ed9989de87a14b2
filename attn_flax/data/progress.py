"""Messages about a dataset on stderr: single lines, and the progress of long work."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator

import jax

_QUIET_S = 10.0  # Seconds between two lines of progress where stderr is not a terminal.


@functools.cache
def say(line: str) -> None:
  """Prints a line on stderr, but never the same one twice: each run of a study opens the data.

  Of the processes of a run, the first one prints it.
  """
  if jax.process_index():
    return
  # File names may contain line breaks and bytes that are not text.
  print(''.join(c if c.isprintable() else repr(c)[1:-1] for c in line), file=sys.stderr)


@contextlib.contextmanager
def progress(
  what: str, total: int | None = None, unit: str = 'files'
) -> Iterator[Callable[[int], None]]:
  """Reports the progress of long work: a bar in a terminal, elsewhere a line every ten seconds.

  Args:
    what: the work, such as 'checking /images'.
    total: number of units in all; None: unknown.
    unit: what is counted, in the plural.

  Yields:
    A function that takes the number of units that were done since its last call.
  """
  if sys.stderr.isatty():
    import tqdm  # A terminal alone needs it.

    with tqdm.tqdm(total=total, desc=what, unit=f' {unit}', leave=False) as bar:
      yield bar.update
    return
  done, said = 0, time.monotonic()

  def advance(count: int) -> None:
    nonlocal done, said
    done += count
    if time.monotonic() - said >= _QUIET_S:
      of_total = '' if total is None else f' of {total:,}'
      print(f'{what}: {done:,}{of_total} {unit}', file=sys.stderr, flush=True)
      said = time.monotonic()

  yield advance
