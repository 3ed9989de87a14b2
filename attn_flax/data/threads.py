"""Function calls spread over threads."""

import concurrent.futures
import functools
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')


def in_threads(
  function: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> list[Result]:
  """Calls a function with each item, several at a time; returns the results in order."""
  if threads <= 1 or len(items) <= 1:
    return [function(item) for item in items]
  return list(_pool(threads).map(function, items))


def default_threads() -> int:
  """The number of CPU cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
  """A pool that lives as long as the process; decoding runs in parallel, as it releases the GIL."""
  return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix='decode')
