"""What is said of a dataset on stderr: lines, and how far long work on many files is."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator

import jax

_QUIET_S = 10.0  # Seconds of work without a word, where there is no terminal.


@functools.cache
def say(line: str) -> None:
  """Prints a line that names a folder, once: a study opens the same data for every run.

  Of the processes of a run, the first one prints it.
  """
  if jax.process_index():
    return
  # Names of files may hold line breaks and bytes that are no text.
  print(''.join(c if c.isprintable() else repr(c)[1:-1] for c in line), file=sys.stderr)


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
  """Gives a function to be called with each number of files that are done.

  Shown are a bar in a terminal, and elsewhere a line now and then.

  Args:
    what: the work, as in 'checking /images'.
    total: files in all; None: not known yet.
  """
  if sys.stderr.isatty():
    import tqdm

    with tqdm.tqdm(total=total, desc=what, unit=' files', leave=False) as bar:
      yield bar.update
    return
  done, said = 0, time.monotonic()

  def advance(count: int) -> None:
    nonlocal done, said
    done += count
    if time.monotonic() - said >= _QUIET_S:
      of_total = '' if total is None else f' of {total:,}'
      print(f'{what}: {done:,}{of_total} files', file=sys.stderr, flush=True)
      said = time.monotonic()

  yield advance
