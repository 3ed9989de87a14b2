"""Parsers of the values of flags, and messages about values that cannot be read."""

import ast
import os
import re
from collections.abc import Sequence

from absl import flags
from ml_collections.config_flags import tuple_parser

from attn_flax.commands.nearest import of_choice
from attn_flax.errors import shown

# Messages of absl and Python about a value of the wrong kind, and what to give instead.
_KINDS = {
  r'(invalid literal for int\(\)|.* is not a whole number).*': 'a whole number',
  r'(could not convert string to float|.* is not a number).*': 'a number',
  r'.*Non-boolean argument.*': 'True or False',
  r'Failed to parse .* as a ConfigDict: .*': 'fields by name, in braces',
}


class Choice(flags.ArgumentParser):
  """Reads one of a few words."""

  def __init__(self, name: str, choices: Sequence[str]):
    """`name` is the flag's; an error lists the `choices` in their order."""
    self._name, self._choices = name, choices

  def parse(self, argument: str) -> str:
    """The word; raises `UserError` for another one."""
    if argument in self._choices:
      return argument
    raise of_choice(self._name, argument, self._choices)


class Paths(flags.ListParser):
  """Reads paths, separated by commas; the name of a file or folder that exists may hold commas."""

  def parse(self, argument: str | list[str]) -> list[str]:
    """The paths; the whole text is one where this path exists."""
    if not isinstance(argument, str):
      return super().parse(argument)
    if _exists(argument):
      return [argument]
    paths: list[str] = []
    words = argument.split(',')
    while words:
      ends = (n for n in range(1, len(words) + 1) if _exists(','.join(words[:n]).strip()))
      end = next(ends, 1)
      paths.append(','.join(words[:end]).strip())
      words = words[end:]
    return paths


def _exists(path: str) -> bool:
  return os.path.exists(os.path.expanduser(path))


class Number(flags.ArgumentParser):
  """Reads a number, or none; an integer may also be written as `2.0`."""

  def __init__(self, kind: type[int] | type[float]):
    """`kind` is the type of the field."""
    self._kind = kind
    self.syntactic_help = 'a whole number' if kind is int else 'a number'

  def flag_type(self) -> str:
    """For absl's help."""
    return self._kind.__name__

  def parse(self, argument: object) -> int | float | None:
    """The number, or None for the text none; raises `ValueError` for any other text."""
    if is_none(argument):
      return None
    if not isinstance(argument, str):
      return argument  # type: ignore[return-value]  # The default.
    try:
      return self._kind(argument)
    except ValueError:
      pass
    try:
      number = float(argument)
    except ValueError:
      number = float('nan')
    if not number.is_integer():
      raise ValueError(f'{shown(argument)} is not {self.syntactic_help}')
    return int(number)


class Switch(flags.BooleanParser):
  """Reads true or false, or none."""

  def parse(self, argument: str | int) -> bool | None:  # type: ignore[override]
    """The value, or None for the text none; raises `ValueError` for any other text."""
    return None if is_none(argument) else super().parse(argument)


class Words(tuple_parser.TupleParser):
  """Reads a tuple, in Python's syntax or as words without quotes, such as `eca,cbam`."""

  def parse(self, argument: object) -> tuple[object, ...]:
    """The tuple; words are separated by commas or spaces, and numbers among them are converted."""
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
  """Rewrites absl's message about a value that it cannot read so that it needs no Python."""
  if match := re.fullmatch(r'flag (--[^:=]+=.*?): (.*)', text, re.S):
    for form, kind in _KINDS.items():
      if re.fullmatch(form, match[2], re.S):
        return f'{match[1]} is impossible; give {kind}'
  return text


def is_none(value: object) -> bool:
  """Whether a value, or the text of one, is none."""
  return value is None or (isinstance(value, str) and value.strip().lower() == 'none')
