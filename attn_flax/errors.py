"""The one exception for mistakes of the user, and the checks that raise it most."""

import difflib
import math
import numbers
from collections.abc import Collection


class UserError(ValueError):
  """A mistake that the user can mend: its text names the value, what is allowed and the fix.

  The command line prints it as one line and exits with code 2; anything else keeps its traceback.
  """


def check_choice(what: str, value: object, allowed: Collection[str]) -> None:
  """Raises `UserError` with the nearest match where `value` is not among `allowed`."""
  if value in allowed:
    return
  near = difflib.get_close_matches(str(value), allowed, n=1)
  hint = f'; did you mean {near[0]!r}?' if near else ';'
  raise UserError(f'unknown {what} {value!r}{hint} allowed: {", ".join(sorted(allowed))}')


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
    whole: whether it must be an integer; booleans are none.
    odd: whether it must be an odd integer.
  """
  if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
    is_kind = isinstance(value, numbers.Integral) or not (whole or odd)
    number = float(value)
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
  raise UserError(f'{what}={value!r} is impossible; choose {name} {" and ".join(bounds)}'.rstrip())


def _plain(bound: float) -> str:
  """A bound as a user would write it: whole numbers with all their digits."""
  return str(bound) if isinstance(bound, int) else f'{bound:g}'


def check_pair(what: str, value: object) -> tuple[object, object]:
  """Returns the two values of a field; raises `UserError` where it does not have two."""
  if not isinstance(value, tuple | list) or len(value) != 2:
    raise UserError(f'{what}={value!r} is impossible; choose two numbers')
  return value[0], value[1]


def check_interval(
  what: str, value: object, most: float = math.inf, *, above: float = -math.inf
) -> None:
  """Raises `UserError` unless a value is two finite numbers within bounds, the smaller first."""
  low, high = check_pair(what, value)
  check_range(f'{what}[0]', low, most=most, above=above)
  check_range(f'{what}[1]', high, float(low), most)  # type: ignore[arg-type]


def check_counts(owner: str = '', /, **fields: object) -> None:
  """Raises `UserError` for a field that is no whole number of at least 1, or no tuple of such.

  Args:
    owner: whose fields they are, named before them.
    **fields: values by name; None is refused, too.
  """
  prefix = f'{owner} ' if owner else ''
  for name, value in fields.items():
    if not isinstance(value, tuple):
      check_range(f'{prefix}{name}', value, 1, whole=True)
      continue
    if not value:
      raise UserError(f'{prefix}{name}=() is empty; name one at least')
    for i, number in enumerate(value):
      check_range(f'{prefix}{name}[{i}]', number, 1, whole=True)
