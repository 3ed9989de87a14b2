"""The folder of a run: its config and result, and the checks before a run writes there."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from attn_flax.data import FOLDER
from attn_flax.data.image_file import MAX_PIXELS
from attn_flax.errors import UserError
from attn_flax.tasks.names import FIRST
from attn_flax.training.artifacts import (
  RESTORE,
  File,
  Folder,
  Json,
  holds_run,
  read_json,
  read_metrics,
  write_json,
)
from attn_flax.training.config import Config, misfit, sections
from attn_flax.training.environment import environment
from attn_flax.training.optimizer import OPEN_ENDED

# Fields that change no result.
_FREE = (
  'data.dir',
  'data.download',
  'data.enlarge',
  'data.max_pixels',
  'data.workers',
  'log_every',
)
# Fields that older runs lack, with the values that describe what those runs did.
_NEWER: Json = {
  'task': FIRST,
  'data.enlarge': False,
  'data.max_pixels': MAX_PIXELS,
  'data.normalize': 'dataset',
}
# Fields that make a run longer.
_LENGTH = ('train.epochs', 'train.steps')


def flatten(tree: Mapping[str, object], prefix: str = '') -> Json:
  """Nested mappings as a single one, with keys such as 'a.b.c'; `prefix` begins all keys."""
  flat: Json = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat


def resolved(config: Config) -> Json:
  """A config as plain JSON values."""
  return json.loads(json.dumps(config.to_dict()))


def difference(
  old: Mapping[str, object], new: Mapping[str, object]
) -> dict[str, tuple[object, object]]:
  """The fields in which two resolved configs differ, {field: (old value, new value)}."""
  before, after = flatten(old), flatten(new)
  fields = sorted(before.keys() | after.keys())
  pairs = {field: (before.get(field), after.get(field)) for field in fields}
  return {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}


def free_fields(config: Config) -> tuple[str, ...]:
  """The fields of a config that change no result, so that a run may continue with other values."""
  # For a folder of images, `data.dir` is the dataset itself; other datasets have names.
  return tuple(f for f in _FREE if f != 'data.dir' or config.data.name != FOLDER)


def load_config(workdir: pathlib.Path) -> Config:
  """The config of a run folder, with values for fields that are newer than the run.

  Raises:
    UserError: where it is missing or damaged.
  """
  return ConfigDict(_stored_config(workdir / File.CONFIG))


def _stored_config(path: pathlib.Path) -> Json:
  config = read_json(path).get('config')
  fields = config if isinstance(config, dict) else {}
  for name in sections():
    if not isinstance(fields.get(name), dict):
      raise UserError(f'{path} lacks the config section {name!r}; {RESTORE}')
  for newer, value in _NEWER.items():
    section, _, name = newer.rpartition('.')
    (fields[section] if section else fields).setdefault(name, value)
  if field := misfit(fields):
    raise UserError(f'{path} has a value of the wrong type in {field}; {RESTORE}')
  return fields


@contextlib.contextmanager
def reading_config(workdir: pathlib.Path) -> Iterator[None]:
  """Reports a damaged config where the body misses a field of a run folder's config.

  Raises:
    UserError: in place of an `AttributeError` or a `KeyError` of the body.
  """
  try:
    yield
  except (AttributeError, KeyError) as error:
    text = ' '.join(str(error).split())
    path = workdir / File.CONFIG
    raise UserError(f'{path} lacks a config field ({text}); {RESTORE}') from None


def read_result(workdir: pathlib.Path) -> Json:
  """The content of a finished run's `result.json`.

  Raises:
    UserError: where it is missing or damaged.
  """
  return read_json(workdir / File.RESULT, 'remove it: the run is then scored again')


def is_finished(workdir: pathlib.Path, config: Config) -> bool:
  """Whether a folder holds the result of a run of this config."""
  if not holds_run(workdir) or not (workdir / File.RESULT).exists():
    return False
  found = difference(_stored_config(workdir / File.CONFIG), resolved(config))
  return not set(found) - set(free_fields(config))


def check_name(workdir: pathlib.Path, *, read_only: bool = False) -> None:
  """Checks that the path of a run folder has no characters that Orbax misreads.

  Orbax finds its files by a glob pattern that contains the path, and treats a backslash as a slash.

  Args:
    workdir: the run folder.
    read_only: whether checkpoints are only read there, which works with glob characters.

  Raises:
    UserError: where checkpoints in the folder could not be read again.
  """
  for character in '\\' if read_only else '\\[*?':
    if character in str(workdir.absolute()):
      raise UserError(
        f'checkpoints in {workdir.absolute()} could not be read again, because its path contains '
        f'{character}; rename the folder, or choose another'
      )


def open_run(workdir: pathlib.Path, config: Config) -> None:
  """Writes the config of a new run, or checks that the folder holds the same run.

  Where the config makes that run longer, the stored config is replaced and the result removed.

  Args:
    workdir: the run folder.
    config: the resolved config.

  Raises:
    UserError: where the folder cannot be written, or holds a run of another config.
  """
  check_name(workdir)
  if not holds_run(workdir):
    write_json(workdir / File.CONFIG, {'config': resolved(config), **environment()})
  elif check_same(workdir, config):
    write_json(workdir / File.CONFIG, {'config': resolved(config), **environment()})
    with _removing(workdir / File.RESULT) as path:
      path.unlink(missing_ok=True)


def move_data(workdir: pathlib.Path, data_dir: str | None) -> None:
  """Stores in the config of a run folder that the run's data is now in another folder.

  Args:
    workdir: the run folder.
    data_dir: the new value of `data.dir`.

  Raises:
    UserError: where the config is damaged or cannot be written.
  """
  path = workdir / File.CONFIG
  config = _stored_config(path)
  if config['data'].get('dir') != data_dir:
    config['data']['dir'] = data_dir
    write_json(path, read_json(path) | {'config': config})


def check_same(workdir: pathlib.Path, config: Config, may_differ: Sequence[str] = ()) -> bool:
  """Checks that a folder holds the run of a config; writes nothing.

  Args:
    workdir: the run folder.
    config: the resolved config.
    may_differ: sections, or top-level fields, that are not compared.

  Returns:
    Whether the config makes the run longer, which is accepted where the schedule's rates up to now
    stay the same, see `optimizer.OPEN_ENDED`.

  Raises:
    UserError: where the folder holds a run of another config.
  """
  found = difference(_stored_config(workdir / File.CONFIG), resolved(config))
  conflicts = {
    field: pair
    for field, pair in found.items()
    if field not in free_fields(config) and field.partition('.')[0] not in may_differ
  }
  if conflicts and set(conflicts) <= set(_LENGTH) and config.optimizer.schedule in OPEN_ENDED:
    if all(_is_more(new, old) for old, new in conflicts.values()):
      return True
  if conflicts:
    pairs = [f'{field}: {old!r} there, {new!r} asked' for field, (old, new) in conflicts.items()]
    shown = '; '.join(pairs[:6]) + (f'; and {len(pairs) - 6} more' if len(pairs) > 6 else '')
    moved = '; another data.dir must hold the same images' * ('data.dir' in conflicts)
    raise UserError(
      f'{workdir} holds a run of another config ({shown}); choose another --workdir, or ask for '
      f'the same config{moved}'
    )
  return False


def _is_more(new: object, old: object) -> bool:
  """Whether two lengths are given, and the first is the larger one."""
  return isinstance(new, int | float) and isinstance(old, int | float) and new > old


def remove_run(workdir: pathlib.Path) -> None:
  """Removes what a run has written, so that it can begin again; other files stay.

  Raises:
    UserError: where a folder or a file cannot be removed.
  """
  for name in Folder:
    removed = workdir / f'{name}.removed'
    with _removing(workdir / name) as folder:
      if folder.exists():
        folder.rename(removed)  # Atomic: a run that is killed here leaves no part of a folder.
      if removed.exists():
        shutil.rmtree(removed)
  for file in File:
    with _removing(workdir / file) as path:
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def _removing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a path that the body removes, whose errors become `UserError`."""
  try:
    yield path
  except OSError as error:
    raise UserError(
      f'{error.filename or path} cannot be removed ({error.strerror}); remove it, or choose '
      'another --workdir'
    ) from None


def check_never_saved(workdir: pathlib.Path, saves: Callable[[int], bool]) -> None:
  """Checks that a run without checkpoints never had one, so that no training is lost silently.

  `File.SAVED` shows that it had. Runs older than that file have had none if their log ends
  before the second save, which waits until the first is on disk.

  Args:
    workdir: the run folder.
    saves: whether the run saves after an update.

  Raises:
    UserError: where there must have been a checkpoint.
  """
  last = max((row['step'] for row in read_metrics(workdir)), default=0)
  if (workdir / File.SAVED).exists() or sum(saves(update) for update in range(1, last)) >= 2:
    raise UserError(
      f'{workdir} holds the log of {last} updates and no checkpoint; restore '
      f'{workdir}/{Folder.CHECKPOINTS}, or begin again with --restart'
    )
