"""The file `dataset.json` of a run folder: class names and preprocessing of the images."""

import functools
import operator
import pathlib
from collections.abc import Callable, Sequence

from attn_flax.errors import UserError
from attn_flax.files import composed
from attn_flax.training.artifacts import File, Json, read_json, write_json
from attn_flax.training.run_folder import move_data

_MOST = 1e30  # Numbers in the file are smaller; this excludes infinities and huge integers.


def load(workdir: pathlib.Path) -> Json:
  """The content of a run's `dataset.json`, after a check of its fields.

  Raises:
    UserError: where it is missing or damaged.
  """
  path = workdir / File.DATASET
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


_FIELDS: dict[str, Callable[[object], bool]] = {
  'class_names': lambda v: isinstance(v, list) and bool(v) and all(isinstance(x, str) for x in v),
  'image_shape': lambda v: (
    isinstance(v, list)
    and len(v) == 3
    and _are_numbers(v, positive=True)
    and all(isinstance(x, int) for x in v)
  ),
  'mean': _are_numbers,
  'std': functools.partial(_are_numbers, positive=True),
  'resize': lambda v: isinstance(v, int) and v > 0,
}


def write(workdir: pathlib.Path, found: Json) -> None:
  """Writes `dataset.json`.

  Args:
    workdir: the run folder.
    found: what `Experiment.describe_data` returns.

  Raises:
    UserError: where the file cannot be written, or exists and describes another dataset.
  """
  path = workdir / File.DATASET
  before = read_json(path) if path.exists() else {}
  for what, name, same in (
    ('classes', 'class_names', same_names),
    ('numbers of images', 'examples', operator.eq),
    ('images', 'content', operator.eq),
  ):
    if name in before and name in found and not same(before[name], found[name]):
      raise UserError(
        f'the {what} of {found["name"]} have changed since {path} was written; restore them, or '
        'choose another --workdir'
      )
  write_json(path, found)


def follow(workdir: pathlib.Path, found: Json, data_dir: str | None) -> None:
  """Stores the new folder of a run's images in its config, if the images are those of the run.

  Args:
    workdir: the run folder; it may hold no run yet.
    found: what `Experiment.describe_data` returns.
    data_dir: the folder of the images, `config.data.dir`.

  Raises:
    UserError: where a file of the run folder cannot be read or written.
  """
  path = workdir / File.DATASET
  if 'content' not in found or not path.exists():
    return
  before = read_json(path)
  if before.get('content') == found['content'] and same_names(
    before.get('class_names', ()), found['class_names']
  ):
    move_data(workdir, data_dir)


def same_names(some: Sequence[str], others: Sequence[str]) -> bool:
  """Whether two lists of class names are equal, whatever their Unicode normalization."""
  return list(map(composed, some)) == list(map(composed, others))
