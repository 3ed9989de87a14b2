"""Timing of calls in turn, so that other load on the machine affects all of them alike."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from attn_flax.errors import check_counts, check_range, check_type

_MOST_ROUNDS = 10**6


def interleave(
  calls: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2
) -> dict[str, np.ndarray]:
  """Times calls A B C A B C ... and waits for each result.

  Args:
    calls: functions without arguments; a result that holds JAX arrays is waited for.
    rounds: how often each is timed.
    warmup: rounds before, which are not timed.

  Returns:
    Seconds of each call, [rounds] by name. Compare two of them round by round (`ratio`).

  Raises:
    UserError: for no rounds.
  """
  check_type('calls', calls, Mapping, 'functions by name')
  check_counts('', _MOST_ROUNDS, rounds=rounds)
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
  """Median and quartiles (lower, median, upper) of the round-by-round ratio of two timings."""
  lower, median, upper = np.percentile(seconds / baseline, (25, 50, 75))
  return float(lower), float(median), float(upper)


def peak_bytes(compiled: jax.stages.Compiled) -> int:
  """Bytes that a compiled program holds at most: arguments, results and temporaries.

  From the compiler's own analysis; arguments that are donated count once.

  Raises:
    ValueError: where the compiler has no such analysis.
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
