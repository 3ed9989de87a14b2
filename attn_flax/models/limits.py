"""What the numbers among the fields of networks and mechanisms may be."""

import math
from collections.abc import Mapping
from typing import Any

from attn_flax.errors import UserError

_COUNTS = (
  'base_width depth depths dilation divisor groups heads hidden kernel_size min_key_dim mlp_width '
  'num_classes patch position_ratio ratio stem_width width widths'
).split()
_SHARES = ('dropout', 'drop_path')  # Below 1, or nothing is left.
_POSITIVE = ('gamma', 'width_multiplier')


def check_numbers(label: str, fields: Mapping[str, Any]) -> None:
  """Refuses numbers that no network and no mechanism can have.

  Args:
    label: whose fields they are.
    fields: values by name; of a tuple each entry is checked; None passes.

  Raises:
    UserError: naming the field, the value and what is allowed.
  """
  for name, value in fields.items():
    values = value if isinstance(value, tuple) else (value,)
    for number in values:
      allowed = _allowed(name, number)
      if number is not None and allowed:
        raise UserError(f'{label} {name}={value!r} is impossible; it must be {allowed}')
    if name in (*_COUNTS, 'pools') and values == ():
      raise UserError(f'{label} {name}=() is empty; name one at least')


def _allowed(name: str, value: Any) -> str:
  """What a field may be, where the value is not that; else ''."""
  if name in _COUNTS:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    odd = name != 'kernel_size' or (whole and value % 2 == 1)
    kind = 'an odd number' if name == 'kernel_size' else 'a whole number'
    return '' if whole and odd else f'{kind} of at least 1'
  is_number = isinstance(value, int | float) and math.isfinite(value)
  if name in _SHARES:
    return '' if is_number and 0 <= value < 1 else 'from 0 to below 1'
  if name in _POSITIVE:
    return '' if is_number and value > 0 else 'above 0'
  return ''
