"""Values that nobody means, drawn at random, and what every answer to them has to be."""

import contextlib
import math
import signal
import zlib

import hypothesis
from hypothesis import strategies as st

# As they are written on a command line.
WORDS = st.one_of(
  st.sampled_from(
    (
      *('none', 'None', 'nan', 'inf', '-inf', '1e400', '-1e400', '1e30', '-1', '0', '-0.5', '0.5'),
      *('', 'abc', 'True', '()', '(None,)', '(1,)', '(1,1,1)', '("a","b")', '(1e400,)', '(-1,0)'),
      *('9223372036854775808', '1' + '0' * 400, '2147483648', '1000000', '1e-320', '[]', '{}'),
      *('~nouser/x', '1,2', "'", '(1,', '(0.5,0.5)', 'lambda: 0', '@x', '=', '2', '1'),
    )
  ),
  st.integers(0, 64).map(str),
  st.integers().map(str),
  st.floats(-1, 2).map(repr),
  st.floats().map(repr),
  st.text(st.characters(codec='ascii', exclude_characters='\0'), max_size=5),
  st.lists(st.integers(-3, 70000), max_size=4).map(tuple).map(repr),
  st.lists(st.integers(1, 40), min_size=3, max_size=3).map(tuple).map(repr),
)
# As a program passes them.
VALUES = st.one_of(
  st.sampled_from(
    (
      *(None, math.nan, math.inf, -math.inf, 1e30, -1, 0, -0.5, 0.5, 2**63, -(2**63), 10**400),
      *(2**31, 10**6, 1e-320, True, False, '', 'abc', '1', b'x', (), (None,), (1,), ('a', 'b')),
      *((math.inf,), (-1, 0), (0.5, 0.5), [], [1], {}, {'a': 1}, int, 1j, 1, 2, (math.nan, 1.0)),
    )
  ),
  st.integers(0, 64),
  st.integers(),
  st.floats(-1, 2),
  st.floats(),
  st.text(max_size=5),
  st.lists(st.integers(-3, 70000), max_size=4).map(tuple),
  st.lists(st.floats(), max_size=3).map(tuple),
)


class Overdue(BaseException):
  """An example took too long; no handler of exceptions may swallow it."""


@contextlib.contextmanager
def deadline(seconds):
  """Ends what takes longer with `Overdue`."""

  def end(number, frame):
    raise Overdue(f'no answer after {seconds} s')

  before = signal.signal(signal.SIGALRM, end)
  signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # Again, where a callback drops it.
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def examples(name, strategy, count):
  """A list of drawn values, the same for the same name in every run."""
  found = []

  @hypothesis.seed(zlib.crc32(name.encode()))
  @hypothesis.settings(
    max_examples=count,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(strategy)
  def collect(value):
    found.append(value)

  collect()
  return found
