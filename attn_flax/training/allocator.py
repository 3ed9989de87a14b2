"""Sets the C library's allocator to keep freed pages.

On CPU, XLA allocates its temporary memory at each step and frees it again; with glibc's defaults,
each step then causes page faults for the same memory.
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
  if not sys.platform.startswith('linux'):
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except AttributeError:  # A C library without `mallopt`.
    return False
  settings = {
    _ARENA_MAX: 1,
    _MMAP_MAX: 0,
    _TRIM_THRESHOLD: 2**31 - 1,
    _TOP_PAD: 2**28,
  }
  return all(mallopt(name, value) for name, value in settings.items())
