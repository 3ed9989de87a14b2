"""The one exception for mistakes of the user, and the check that raises it most."""

import difflib
from collections.abc import Collection


class UserError(ValueError):
  """A mistake that the user can mend: its text names the value, what is allowed and the fix.

  `main.py` prints it as one line and exits with code 2; anything else keeps its traceback.
  """


def check_choice(what: str, value: object, allowed: Collection[str]) -> None:
  """Raises `UserError` with the nearest match where `value` is not among `allowed`."""
  if value in allowed:
    return
  near = difflib.get_close_matches(str(value), allowed, n=1)
  hint = f'; did you mean {near[0]!r}?' if near else ';'
  raise UserError(f'unknown {what} {value!r}{hint} allowed: {", ".join(sorted(allowed))}')
