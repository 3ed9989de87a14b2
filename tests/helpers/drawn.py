"""Random values for arguments and fields, and the check of how the code responds to them."""

import collections
import contextlib
import math
import re
import signal
import tempfile
import zlib
from unittest import mock

import hypothesis
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

# Hypothesis would otherwise store its examples in the working directory.
_HOME = tempfile.TemporaryDirectory(prefix='hypothesis_')
hypothesis.configuration.set_hypothesis_home_dir(_HOME.name)

# Words that have a meaning in some field.
CHOICES = (
  *('resnet20', 'resnet50', 'wrn16_4', 'mnasnet_a1', 'vit_tiny32', 'basic', 'bottleneck', 'preact'),
  *('imagenet', 'deep', 'tiered', 'cifar', '3x3', '1x1', 'conv', 'avg', 'torch', 'caffe', 'same'),
  *('token', 'mean', 'tanh', 'exact', 'float32', 'bfloat16', 'float64', 'constant', 'reflect'),
  *('global', 'per_device', 'sgd', 'adamw', 'cosine', 'step', 'se', 'eca', 'cbam', 'bam', 'aa'),
  *('none', 'softmax', 'sigmoid', 'product', 'sum', 'channel_first', 'parallel_product', 'dual'),
  *('spatial_only', 'position', 'additive', 'dot_product', 'embedded', 'gaussian', 'after'),
  *('released', 'paper', 'direct', 'blocks', 'fused', 'identity', 'noise', 'folder', 'cifar10'),
)
# Numbers as they are written on a command line.
_NUMBERS = st.one_of(
  st.integers(1, 9).map(str),
  st.integers(-2, 64).map(str),
  st.sampled_from(('1000', '65536', '65537', '2147483647', '2147483648', '9223372036854775807')),
  st.integers().map(str),
)
_TUPLES = st.one_of(
  st.lists(st.integers(0, 4), max_size=4).map(tuple).map(repr),
  st.lists(st.integers(1, 5), min_size=3, max_size=3).map(tuple).map(repr),
  st.lists(st.integers(1, 70000), min_size=3, max_size=4).map(tuple).map(repr),
  st.lists(st.floats(0, 2), min_size=1, max_size=3).map(tuple).map(repr),
)
WORDS = st.one_of(
  st.sampled_from(
    (
      *('none', 'None', 'nan', 'inf', '-inf', '1e400', '-1e400', '1e30', '-1', '0', '-0.5', '0.5'),
      *('', 'abc', 'True', '()', '(None,)', '(1,)', '(1,1,1)', '("a","b")', '(1e400,)', '(-1,0)'),
      *('9223372036854775808', '1' + '0' * 400, '2147483648', '1000000', '1e-320', '[]', '{}'),
      *('~nouser/x', '1,2', "'", '(1,', '(0.5,0.5)', 'lambda: 0', '@x', '=', '2', '1'),
    )
  ),
  st.integers().map(str),
  st.floats().map(repr),
  st.text(st.characters(codec='ascii', exclude_characters='\0'), max_size=5),
  _TUPLES,
)
# By the type of a field, words that its parser takes; others are drawn from `WORDS`.
WORDS_OF = {
  bool: st.sampled_from(('True', 'False', '0', '1')),
  int: _NUMBERS,
  float: st.one_of(st.floats(0, 1).map(repr), st.floats().map(repr), _NUMBERS),
  str: st.one_of(*3 * [st.sampled_from(CHOICES)], st.text('abc/._~: ', max_size=4)),
  tuple: _TUPLES,
}
# Values as a program passes them.
VALUES = st.one_of(
  st.sampled_from(
    (
      *(None, math.nan, math.inf, -math.inf, 1e30, -1, 0, -0.5, 0.5, 2**63, -(2**63), 10**400),
      *(2**31, 10**6, 1e-320, True, False, '', 'abc', '1', b'x', (), (None,), (1,), ('a', 'b')),
      *((math.inf,), (-1, 0), (0.5, 0.5), [], [1], {}, {'a': 1}, int, 1j, 1, 2, (math.nan, 1.0)),
      *((1, 1, 1), (2, 3, 4), (3, 3), ('avg',), (True,), {1}, (0.1, 0.2), object),
    )
  ),
  st.sampled_from(CHOICES),
  st.integers(0, 64),
  st.integers(),
  st.floats(-1, 2),
  st.floats(),
  st.text(st.characters(codec='latin-1'), max_size=5),
  st.lists(st.integers(-3, 70000), max_size=4).map(tuple),
  st.lists(st.floats(), max_size=3).map(tuple),
)

# By the type of a field's default, values that it may accept.
VALUES_OF = {
  bool: st.sampled_from((True, False, 0, None)),
  int: st.one_of(st.integers(1, 9), st.integers(0, 64), st.integers(), st.floats(0, 9)),
  float: st.one_of(st.floats(0, 1), st.floats(0, 9), st.floats(), st.integers(0, 3)),
  str: st.one_of(st.sampled_from(CHOICES), st.sampled_from(CHOICES), VALUES),
  tuple: st.one_of(
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.lists(st.integers(1, 5), min_size=2, max_size=3).map(tuple),
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted).map(tuple),
    st.lists(st.integers(-3, 70000), max_size=4),
  ),
}


def values_like(default):
  """Values for a field with a default: of any type, and twice as often of the default's type."""
  likely = VALUES_OF.get(type(default), VALUES)
  return st.sampled_from((VALUES, likely, likely)).flatmap(lambda values: values)


def harmless(word):
  """A word that names no place outside the working directory, for the flags that take paths."""
  outside = word.startswith(('/', '~')) or '..' in word
  return f'x{word}'.replace('/', '_') if outside and word != '~nouser/x' else word


def is_finite(value):
  """Whether a value, or the text of one, contains neither infinity nor NaN."""
  if isinstance(value, str):
    return not re.search(r'\b(nan|inf|infinity|1e400)\b', value.lower())
  if isinstance(value, float):
    return math.isfinite(value)
  return all(map(is_finite, value)) if isinstance(value, tuple | list) else True


class Overdue(BaseException):
  """An example took too long; no `except Exception` may catch it."""


@contextlib.contextmanager
def deadline(seconds):
  """Raises `Overdue` in a block that takes longer."""

  def end(number, frame):
    raise Overdue(f'no answer after {seconds} s')

  before = signal.signal(signal.SIGALRM, end)
  signal.setitimer(
    signal.ITIMER_REAL, seconds, 1
  )  # Repeated, as a callback may lose the exception.
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
    max_examples=count + 1,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(strategy)
  def collect(value):
    found.append(value)

  # Otherwise constants of the modules that happen to be loaded would be drawn, too.
  with mock.patch.object(providers, '_get_local_constants', providers.Constants, create=True):
    collect()
  return found[1:]  # The first is always the simplest.


def answered(answers, what, capsys):
  """Prints and returns the number of cases with each answer; fails if an answer is wrong.

  Args:
    answers: for each case (its name, what is wrong with the answer or '', the answer).
    what: what the cases are, for the printed line.
    capsys: pytest's.
  """
  counts = collections.Counter(answer for _, _, answer in answers)
  faults = [f'{question}: {found[:400]}' for question, found, _ in answers if found]
  with capsys.disabled():
    print(f'\n{len(answers)} {what}: {dict(counts)}, {len(faults)} wrong')
  assert not faults, '\n'.join(faults)
  return counts
