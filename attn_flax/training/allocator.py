"""Has the C library keep the memory that a training step frees, for the next step.

On CPU, XLA allocates its temporary memory at each step and frees it again. With glibc's defaults,
each step then waits for the operating system to map the same pages again. Keeping them takes about
a fifth less time and some hundred megabytes more (`benchmarks/memory.py`). What is freed outside of
the steps, as by the compiler and by evaluations, is given back by `give_back`.
"""

import ctypes
import sys

# The parameters of `mallopt`, from <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_pages() -> bool:
  """Keeps freed memory in the process; call it before the first thread starts.

  Returns:
    Whether the C library accepted the settings, as glibc on Linux does.
  """
  library = _library()
  if library is None:
    return False
  settings = {
    _ARENA_MAX: 1,
    _MMAP_MAX: 0,
    _TRIM_THRESHOLD: 2**31 - 1,
    _TOP_PAD: 2**24,
  }
  return all(library.mallopt(name, value) for name, value in settings.items())


def give_back() -> bool:
  """Gives the memory that is free now back to the operating system.

  The next training step maps its own anew: call it between many.

  Returns:
    Whether the C library gave any back.
  """
  library = _library()
  return library is not None and bool(library.malloc_trim(0))


def _library() -> ctypes.CDLL | None:
  """The C library; None where it is not glibc."""
  if not sys.platform.startswith('linux'):
    return None
  library = ctypes.CDLL(None)
  return library if hasattr(library, 'mallopt') and hasattr(library, 'malloc_trim') else None
