"""The exception for mistakes of the user, and the checks that raise it most often."""

import difflib
import math
import numbers
import types
from collections.abc import Collection, Iterable

import numpy as np

# The largest width, number of heads and the like: a layer with more units fits no device.
MOST_UNITS = 2**16
MOST_CLASSES = 2**24
MOST_SEED = 2**63 - 1  # NumPy and JAX hold steps, epochs and seeds in 64 bits.
_LONGEST = 80  # Characters of a value in an error.
_MOST_LISTED = 8  # Names in an error; a longer list would hide the rest of the message.


class UserError(ValueError):
  """A mistake that the user can fix: its text names the value, what is allowed and what to do.

  The command line prints it in one line, without a traceback, and exits with code 2.
  """


def check_choice(what: str, value: object, allowed: Collection[str]) -> None:
  """Raises `UserError` with the nearest match where `value` is not among `allowed`."""
  if isinstance(value, str) and value in allowed:
    return
  text, names = f'unknown {what} {shown(value)}', sorted(allowed)
  near = nearest(str(value), names)
  hint = f'; did you mean {near[0]!r}?' if near else ';'
  if near and len(names) > _MOST_LISTED:
    raise UserError(text + hint)
  if len(names) > _MOST_LISTED:
    likely = difflib.get_close_matches(str(value), names, _MOST_LISTED, cutoff=0)
    names = [*sorted(likely), *(name for name in names if name not in likely)]
  raise UserError(f'{text}{hint} allowed: {listed(names)}')


def nearest(word: str, names: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
  """The names that a mistyped word most likely means, the likeliest first.

  They are the name that differs from it only in capitals, '-' and '_'; else the names that it
  begins, the shortest first, or that begin it; else those of similar letters.

  Args:
    word: the word.
    names: the names that are allowed.
    count: the most names to return.
    cutoff: the least similarity of letters, from 0 to 1, see `difflib.get_close_matches`.
  """
  typed, plain = _plain_name(word), {name: _plain_name(name) for name in names}
  begun = [name for name in plain if len(typed) > 1 and plain[name].startswith(typed)]
  # A name that is only a small part of the word, such as 'se' of 'section', is not meant.
  begin = [name for name in plain if typed.startswith(plain[name]) and 2 * len(name) >= len(word)]
  found = (
    [name for name in plain if plain[name].replace('_', '') == typed.replace('_', '')]
    or sorted(begun, key=lambda name: (len(name), name))
    or sorted(begin, key=len, reverse=True)
  )
  if not found:
    alike = difflib.get_close_matches(typed, dict.fromkeys(plain.values()), count, cutoff)
    found = [next(name for name in plain if plain[name] == other) for other in alike]
  return found[:count]


def _plain_name(name: str) -> str:
  """A name in lower case, with '_' for '-'."""
  return name.casefold().replace('-', '_')


def listed(names: Collection[str], most: int = _MOST_LISTED) -> str:
  """Names as errors list them: of more than `most`, the first and how many more there are."""
  more = len(names) - most
  text = ', '.join(list(names)[:most])
  return f'{text} and {more} more' if more > 0 else text


def counted(count: int, noun: str) -> str:
  """A number and its noun, in the plural unless it is 1: '1 image', '2,000 images'."""
  return f'{count:,} {noun}{"" if count == 1 else "s"}'


def shown(value: object) -> str:
  """A value as errors show it: in one line, of a long value only the beginning."""
  text = ' '.join(repr(value).split())
  if isinstance(value, str):  # As it was typed.
    text = text.replace('\\\\', '\\')
  return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'


def check_range(
  what: str,
  value: object,
  least: float = -math.inf,
  most: float = math.inf,
  *,
  above: float = -math.inf,
  below: float = math.inf,
  whole: bool = False,
  odd: bool = False,
) -> None:
  """Raises `UserError` unless a value is a finite number within bounds.

  Args:
    what: the field, as the user writes it.
    value: what it was set to.
    least: the smallest value that is allowed.
    most: the largest value that is allowed.
    above: all allowed values are larger than this one.
    below: all allowed values are smaller than this one.
    whole: whether it must be an integer; booleans are refused.
    odd: whether it must be an odd integer.
  """
  number = _finite(value)
  if number is not None:
    is_kind = isinstance(value, numbers.Integral) or not (whole or odd)
    within = least <= number <= most and above < number < below
    if is_kind and within and not (odd and number % 2 == 0):
      return
  name = 'an odd number' if odd else 'a whole number' if whole else 'a number'
  bounds = [
    f'{text} {_plain(bound)}'
    for text, bound in (
      ('of at least', least if most == math.inf else -math.inf),
      ('above', above),
      ('of at most', most if least == -math.inf else math.inf),
      ('below', below),
    )
    if math.isfinite(bound)
  ]
  if math.isfinite(least) and math.isfinite(most):
    bounds = [f'from {_plain(least)} to {_plain(most)}']
  text = f'{what}={shown(value)} is impossible; choose {name} {" and ".join(bounds)}'
  raise UserError(text.rstrip())


def _finite(value: object) -> float | None:
  """A value as a float; None for what is not a number, is not finite or fits no float."""
  if not isinstance(value, numbers.Real) or isinstance(value, bool):
    return None
  try:
    number = float(value)
  except OverflowError:
    return None
  return number if math.isfinite(number) else None


def _plain(bound: float) -> str:
  """A bound as a user would write it, whole numbers with all their digits."""
  return str(bound) if isinstance(bound, int) else f'{bound:g}'


def check_pair(what: str, value: object) -> tuple[object, object]:
  """Returns the two values of a field; raises `UserError` where it does not have two."""
  if not isinstance(value, tuple | list) or len(value) != 2:
    raise UserError(f'{what}={shown(value)} is impossible; choose two numbers')
  return value[0], value[1]


def check_interval(
  what: str, value: object, most: float = math.inf, *, above: float = -math.inf
) -> None:
  """Raises `UserError` unless a value is a pair of numbers within bounds, the smaller one first."""
  low, high = check_pair(what, value)
  check_range(f'{what}[0]', low, most=most, above=above)
  check_range(f'{what}[1]', high, float(low), most)  # type: ignore[arg-type]


def check_counts(most: int = MOST_UNITS, /, **fields: object) -> None:
  """Raises `UserError` for a field that is not a whole number of at least 1.

  Args:
    most: the largest number that is allowed.
    **fields: values by name; None is refused, too.
  """
  for name, value in fields.items():
    check_range(name, value, 1, most, whole=True)


def check_tuple(what: str, value: object, least: int = 1, most: int = MOST_UNITS) -> None:
  """Raises `UserError` unless a value is a tuple of whole numbers within bounds.

  Args:
    what: the field, as the user writes it.
    value: what it was set to; () is refused unless `least` is 0.
    least: the smallest number that is allowed.
    most: the largest number that is allowed.
  """
  if not isinstance(value, tuple):
    raise UserError(f'{what}={shown(value)} is impossible; give a tuple of whole numbers')
  if not value and least:
    raise UserError(f'{what}=() is empty; give at least one number')
  for i, number in enumerate(value):
    check_range(f'{what}[{i}]', number, least, most, whole=True)


def check_flags(**fields: object) -> None:
  """Raises `UserError` for a field that is neither True nor False."""
  for name, value in fields.items():
    if not isinstance(value, bool | np.bool_):
      raise UserError(f'{name}={shown(value)} is impossible; choose True or False')


def check_type(what: str, value: object, kind: type | types.UnionType, fix: str) -> None:
  """Raises `UserError` unless a value is an instance of `kind`; `fix` says what to give."""
  if not isinstance(value, kind):
    raise UserError(f'{what}={shown(value)} is impossible; give {fix}')
