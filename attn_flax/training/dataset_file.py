"""The file `dataset.json` of a run: class names and preprocessing, which decide what it sees."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

from attn_flax.errors import UserError
from attn_flax.training.run_folder import Json, read_json, write_json

_MOST = 1e30  # Of a number in the file; infinities and integers beyond floats are larger.


def load(workdir: pathlib.Path) -> Json:
  """The content of a run's `dataset.json`, checked: it decides what a network sees.

  Raises:
    UserError: when it is missing or damaged.
  """
  path = workdir / 'dataset.json'
  content = read_json(path)
  for name, is_right in _FIELDS.items():
    value = content.get(name)
    if not is_right(value):
      raise UserError(f'{path} has {name}={value!r}, which no run writes; restore it from a copy')
  return content


def _are_numbers(value: object, *, positive: bool = False) -> bool:
  return (
    isinstance(value, list)
    and len(value) in (1, 3)
    and all(
      isinstance(x, int | float)
      and not isinstance(x, bool)
      and abs(x) < _MOST
      and (x > 0 or not positive)
      for x in value
    )
  )


_FIELDS: dict[str, Callable[[Any], bool]] = {
  'class_names': lambda v: isinstance(v, list) and bool(v) and all(isinstance(x, str) for x in v),
  'image_shape': lambda v: (
    _are_numbers(v, positive=True) and len(v) == 3 and all(isinstance(x, int) for x in v)
  ),
  'mean': _are_numbers,
  'std': functools.partial(_are_numbers, positive=True),
  'resize': lambda v: isinstance(v, int) and v > 0,
}


def write(workdir: pathlib.Path, found: Json) -> None:
  """Writes the file.

  Raises:
    UserError: when classes or numbers of images are no longer those that it holds.
  """
  path = workdir / 'dataset.json'
  before = read_json(path) if path.exists() else {}
  for what, name in (('classes', 'class_names'), ('numbers of images', 'examples')):
    if name in before and before[name] != found[name]:
      raise UserError(
        f'the {what} of {found["name"]} have changed since {path} was written; restore them, or '
        'choose another --workdir'
      )
  write_json(path, found)
