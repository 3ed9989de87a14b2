"""Times of calls in turn, so that other load affects all of them alike; memory of programs."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from attn_flax.errors import check_counts, check_range, check_type

_MOST_ROUNDS = 10**6


def interleave(
  calls: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2
) -> dict[str, np.ndarray]:
  """Times calls in turn, A B C A B C, and waits for each result.

  Args:
    calls: functions without arguments, by name; JAX arrays in their results are waited for.
    rounds: how often each function is timed.
    warmup: rounds before these, which are not timed.

  Returns:
    Seconds of each call, [rounds] by name. Compare two of them round by round (`ratio`).

  Raises:
    UserError: for calls that are not a mapping, or numbers of rounds that are out of range.
  """
  check_type('calls', calls, Mapping, 'functions by name')
  check_counts(_MOST_ROUNDS, rounds=rounds)
  check_range('warmup', warmup, 0, _MOST_ROUNDS, whole=True)
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for i in range(warmup + rounds):
    for name, call in calls.items():
      began = time.perf_counter()
      jax.block_until_ready(call())
      if i >= warmup:
        seconds[name].append(time.perf_counter() - began)
  return {name: np.array(values) for name, values in seconds.items()}


def ratio(seconds: np.ndarray, baseline: np.ndarray) -> tuple[float, float, float]:
  """Lower quartile, median and upper quartile of the round-by-round ratio of two timings."""
  lower, median, upper = np.percentile(seconds / baseline, (25, 50, 75))
  return float(lower), float(median), float(upper)


def peak_bytes(compiled: jax.stages.Compiled) -> int:
  """Bytes that a compiled program holds at most: arguments, results and temporaries.

  They come from the compiler's own analysis; memory that arguments donate to results counts once.

  Raises:
    ValueError: for a compiler that has no such analysis.
  """
  found = compiled.memory_analysis()
  if found is None:
    raise ValueError('this compiler does not report how much memory a program needs')
  return (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    + found.temp_size_in_bytes
    - found.alias_size_in_bytes
  )
