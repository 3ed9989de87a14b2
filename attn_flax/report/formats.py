"""Numbers as words: each kind of number is written in the same way everywhere."""

import math
from collections.abc import Sequence

from attn_flax.study.statistics import Estimate

NONE = 'n/a'


def number(value: float | None, digits: int) -> str:
  """A number with thousands set apart and a true minus sign; 'n/a' for None and NaN."""
  if value is None or math.isnan(value):
    return NONE
  if math.isinf(value):
    return '∞' if value > 0 else '−∞'
  text = f'{value:,.{digits}f}'.replace(',', '\N{NARROW NO-BREAK SPACE}')
  # Rounding leaves no negative zero.
  return text.replace('-', '−') if any(digit in text for digit in '123456789') else text.lstrip('-')


def signed(value: float | None, digits: int) -> str:
  """A number that always shows its sign, as a difference should; zero has none."""
  text = number(value, digits)
  return f'+{text}' if text[0].isdigit() and any(digit in text for digit in '123456789') else text


def percent(share: float | None, digits: int = 2) -> str:
  """A share of one in percent, without its unit."""
  return number(None if share is None else 100 * share, digits)


def points(difference: float | None, digits: int = 2) -> str:
  """A difference of two shares in percentage points, without its unit."""
  return signed(None if difference is None else 100 * difference, digits)


def known(estimate: Estimate | None) -> bool:
  """Whether there is an estimate whose interval is finite."""
  return estimate is not None and math.isfinite(estimate.low) and math.isfinite(estimate.high)


def plus_minus(spread: str) -> str:
  """A spread as it is printed behind a mean, without a line break inside."""
  return f'±\N{NO-BREAK SPACE}{spread}'


def bounds(low: str, high: str) -> str:
  """Two numbers as an interval, without a line break inside."""
  return f'[{low},\N{NO-BREAK SPACE}{high}]'


def interval(estimate: Estimate | None, digits: int, scale: float = 1) -> str:
  """The bounds of an estimate, as in [−0.1, +0.3]; '' where they are not known."""
  if estimate is None or not known(estimate):
    return ''
  return bounds(signed(scale * estimate.low, digits), signed(scale * estimate.high, digits))


def times(ratio: float | None) -> str:
  """A ratio, as in ×1.05; small excesses keep enough digits to differ from 1."""
  if ratio is None or math.isnan(ratio):
    return NONE
  digits = 4 if 0 < abs(ratio - 1) < 0.005 else 2
  return '×' + number(ratio, digits)


def large(count: float) -> str:
  """A count with three or four digits and its power of ten, as in 1.234 M."""
  for power, letter in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if abs(count) >= power:
      return f'{number(count / power, 3)} {letter}'
  return number(count, 0)


def magnitude(value: float) -> str:
  """A positive measurement with about three digits."""
  return number(value, 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3)


def listing(names: Sequence[str]) -> str:
  """Names as a sentence has them: a, b and c."""
  return ' and '.join(filter(None, (', '.join(names[:-1]), names[-1]))) if names else ''


def one_line(text: str) -> str:
  """A text on one line; 'n/a' for none."""
  return ' '.join(text.split()) or NONE
