"""Numbers as text: the report formats each kind of number the same way everywhere."""

import math
from collections.abc import Sequence

from attn_flax.study.statistics import Estimate

NONE = 'n/a'


def number(value: float | None, digits: int) -> str:
  """A number with a narrow space between thousands and a true minus sign.

  Args:
    value: the number; None and NaN become 'n/a', infinities '∞' and '−∞'.
    digits: number of decimal places.
  """
  if value is None or math.isnan(value):
    return NONE
  if math.isinf(value):
    return '∞' if value > 0 else '−∞'
  text = f'{value:,.{digits}f}'.replace(',', '\N{NARROW NO-BREAK SPACE}')
  # Rounding leaves no negative zero.
  return text.replace('-', '−') if any(digit in text for digit in '123456789') else text.lstrip('-')


def signed(value: float | None, digits: int) -> str:
  """A number with its sign, '+' or '−', as differences are printed; zero has none."""
  text = number(value, digits)
  return f'+{text}' if text[0].isdigit() and any(digit in text for digit in '123456789') else text


def percent(share: float | None, digits: int = 2) -> str:
  """A share in 0..1 as percent, without the unit."""
  return number(None if share is None else 100 * share, digits)


def points(difference: float | None, digits: int = 2) -> str:
  """A difference of two shares in percentage points, signed, without the unit."""
  return signed(None if difference is None else 100 * difference, digits)


def known(estimate: Estimate | None) -> bool:
  """Whether there is an estimate whose interval is finite."""
  return estimate is not None and math.isfinite(estimate.low) and math.isfinite(estimate.high)


def plus_minus(spread: str) -> str:
  """A spread as it is printed after a mean, as in '± 0.3', without a line break inside."""
  return f'±\N{NO-BREAK SPACE}{spread}'


def bounds(low: str, high: str) -> str:
  """Two numbers as an interval, as in '[0.1, 0.3]', without a line break inside."""
  return f'[{low},\N{NO-BREAK SPACE}{high}]'


def interval(estimate: Estimate | None, digits: int, scale: float = 1) -> str:
  """The bounds of an estimate times `scale`, as in '[−0.1, +0.3]'; '' where they are not known."""
  if estimate is None or not known(estimate):
    return ''
  return bounds(signed(scale * estimate.low, digits), signed(scale * estimate.high, digits))


def times(ratio: float | None) -> str:
  """A ratio, as in '×1.05'; one that is close to 1 gets four decimal places instead of two."""
  if ratio is None or math.isnan(ratio):
    return NONE
  digits = 4 if 0 < abs(ratio - 1) < 0.005 else 2
  return '×' + number(ratio, digits)


def large(count: float) -> str:
  """A count with three decimal places and its SI prefix, as in '1.234 M'; whole below 1000."""
  for power, letter in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if abs(count) >= power:
      return f'{number(count / power, 3)} {letter}'
  return number(count, 0)


def magnitude(value: float) -> str:
  """A positive measurement with about three significant digits."""
  return number(value, 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3)


def listing(names: Sequence[str]) -> str:
  """Names as an enumeration in a sentence: 'a, b and c'; '' for none."""
  return ' and '.join(filter(None, (', '.join(names[:-1]), names[-1]))) if names else ''


def one_line(text: str) -> str:
  """A text on one line; 'n/a' for an empty one."""
  return ' '.join(text.split()) or NONE
