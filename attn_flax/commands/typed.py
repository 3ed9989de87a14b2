"""Values of flags as they are typed, and what is said of those that cannot be read."""

import ast
import difflib
import re
from collections.abc import Sequence

from absl import flags
from ml_collections.config_flags import tuple_parser

from attn_flax.errors import UserError

# What absl and Python say of a value of the wrong kind, and what to give.
_KINDS = {
  r'(invalid literal for int\(\)|.* is not a whole number).*': 'a whole number',
  r'(could not convert string to float|.* is not a number).*': 'a number',
  r'.*Non-boolean argument.*': 'True or False',
}


class Choice(flags.ArgumentParser):
  """One of a few words."""

  def __init__(self, name: str, choices: Sequence[str]):
    """`name` is the flag's; the `choices` are listed in their order."""
    self._name, self._choices = name, choices

  def parse(self, argument: str) -> str:
    """The word; raises `UserError` for another one."""
    if argument in self._choices:
      return argument
    near = difflib.get_close_matches(argument.lower(), self._choices, 1)
    hint = f' did you mean --{self._name}={near[0]}?' if near else ''
    listed = ', '.join(self._choices)
    raise UserError(f'--{self._name}={argument} is unknown;{hint} allowed: {listed}')


class Words(tuple_parser.TupleParser):
  """A tuple: `eca,cbam` are two words, also without quotes around each."""

  def parse(self, argument: object) -> tuple[object, ...]:
    """Python's own tuples stay what they are."""
    try:
      found: tuple[object, ...] = super().parse(argument)
    except ValueError:
      found = (argument,)
    if len(found) != 1 or not isinstance(found[0], str):
      return found
    words = [word for word in re.split(r'[\s,]+', found[0].strip('()[] ')) if word]
    return tuple(map(_value, words)) or found


def _value(word: str) -> object:
  """A word of a tuple, as a number where it is one."""
  try:
    return ast.literal_eval(word)
  except (ValueError, SyntaxError):
    return word.strip('\'"')


def plain(text: str) -> str:
  """What absl says of a value that it cannot read, in words that need no knowledge of Python."""
  if match := re.fullmatch(r'flag (--[^:=]+=.*?): (.*)', text, re.S):
    for form, kind in _KINDS.items():
      if re.fullmatch(form, match[2], re.S):
        return f'{match[1]} is impossible; give {kind}'
  return text
