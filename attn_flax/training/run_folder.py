"""The folder of a run: its config, where it was made, its metrics and its results."""

import contextlib
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from attn_flax.data import FOLDER
from attn_flax.data.loading import MAX_PIXELS
from attn_flax.errors import UserError
from attn_flax.tasks.names import FIRST
from attn_flax.training.artifacts import RESTORE, Json, read_json, read_metrics, write_json
from attn_flax.training.config import Config, misfit
from attn_flax.training.environment import environment
from attn_flax.training.optimizer import OPEN_ENDED

_FREE = (
  'data.dir',
  'data.download',
  'data.enlarge',
  'data.max_pixels',
  'data.workers',
  'log_every',
)
# Fields of a study that choose among its runs or shape its report, and change no run.
_OF_NO_RUN = ('baseline', 'only', 'report', 'seeds', 'select')
# A mark: a checkpoint has been saved, so that without one something is lost.
SAVED = '.saved'
# The files that a run and the modes that read it write into its folder.
_WRITTEN = (
  'config.json',
  'dataset.json',
  'init_from.json',
  'metrics.jsonl',
  'result.json',
  'predictions.npz',
  'evaluation.json',
  'explanations.json',
  'explanations.png',
  SAVED,
)
_WRITTEN_FOLDERS = ('checkpoints', 'tensorboard', 'explanations')
# The sections of a config.
_SECTIONS = ('augment', 'checkpoint', 'data', 'eval', 'model', 'optimizer', 'train')
# Fields that runs made before they existed lack, with what such runs did.
_NEWER: dict[str, Any] = {
  'task': FIRST,
  'data.enlarge': False,
  'data.max_pixels': MAX_PIXELS,
  'data.normalize': 'dataset',
}
# Fields that prolong a run.
_LENGTH = ('train.epochs', 'train.steps')


def flatten(tree: Mapping[str, object], prefix: str = '') -> Json:
  """Nested mappings as one, keyed `a.b.c`."""
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


def difference(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, tuple[Any, Any]]:
  """The fields in which two resolved configs differ, with both values."""
  before, after = flatten(old), flatten(new)
  fields = sorted(before.keys() | after.keys())
  pairs = {field: (before.get(field), after.get(field)) for field in fields}
  return {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}


def free_fields(config: Config) -> tuple[str, ...]:
  """The fields of a config that change no result, so that a run may go on with other ones."""
  # The folder of one's own images is the dataset itself; others are known by their name.
  return tuple(f for f in _FREE if f != 'data.dir' or config.data.name != FOLDER)


def load_config(workdir: pathlib.Path) -> Config:
  """The config of a run folder.

  Raises:
    UserError: when it is missing or damaged.
  """
  return ConfigDict(_stored_config(workdir / 'config.json'))


def _stored_config(path: pathlib.Path) -> Json:
  config = read_json(path).get('config')
  sections = config if isinstance(config, dict) else {}
  for name in _SECTIONS:
    if not isinstance(sections.get(name), dict):
      raise UserError(f'{path} lacks the section {name!r} of a config; {RESTORE}')
  for newer, value in _NEWER.items():
    section, _, name = newer.rpartition('.')
    (sections[section] if section else sections).setdefault(name, value)
  if field := misfit(sections):
    raise UserError(f'{path} holds a {field} of another type than any run has; {RESTORE}')
  return sections


@contextlib.contextmanager
def reading_config(workdir: pathlib.Path) -> Iterator[None]:
  """Says that a stored config is damaged where what is built from it lacks a field.

  Raises:
    UserError: in place of an `AttributeError` or a `KeyError`.
  """
  try:
    yield
  except (AttributeError, KeyError) as error:
    text = ' '.join(str(error).split())
    path = workdir / 'config.json'
    raise UserError(f'{path} lacks a field of a config ({text}); {RESTORE}') from None


def read_result(workdir: pathlib.Path) -> Json:
  """The content of a finished run's `result.json`.

  Raises:
    UserError: when it is damaged.
  """
  return read_json(workdir / 'result.json', 'remove it: the run is then scored again')


def is_finished(workdir: pathlib.Path, config: Config) -> bool:
  """Whether the folder holds the result of just this run."""
  path = workdir / 'config.json'
  if not path.exists() or not (workdir / 'result.json').exists():
    return False
  found = difference(_stored_config(path), resolved(config))
  return not set(found) - set(free_fields(config))


def check_name(workdir: pathlib.Path, *, read_only: bool = False) -> None:
  """Raises `UserError` for a run folder whose checkpoints could not be read again.

  Orbax finds the files that it has written by a pattern that holds the path of the folder, and
  takes a backslash for a slash.
  """
  for character in '\\' if read_only else '\\[*?':
    if character in str(workdir.absolute()):
      raise UserError(
        f'checkpoints in {workdir.absolute()} could not be read again, for its path holds '
        f'{character}; choose or rename the folder without it'
      )


def open_run(workdir: pathlib.Path, config: Config) -> None:
  """Makes the folder of a run, or checks that the one there holds the same run.

  Where the run is now a longer one, its result is removed.

  Raises:
    UserError: when the folder cannot be written, or holds another config.
  """
  check_name(workdir)
  path = workdir / 'config.json'
  if not path.exists():
    write_json(path, {'config': resolved(config), **environment()})
  elif check_same(workdir, config):
    write_json(path, {'config': resolved(config), **environment()})
    (workdir / 'result.json').unlink(missing_ok=True)


def move_data(workdir: pathlib.Path, data_dir: str | None) -> None:
  """Notes in the config of a run folder that the run's own data lies in another folder now.

  Raises:
    UserError: the config is damaged or cannot be written.
  """
  path = workdir / 'config.json'
  config = _stored_config(path)
  if config['data'].get('dir') != data_dir:
    config['data']['dir'] = data_dir
    write_json(path, read_json(path) | {'config': config})


def check_same(workdir: pathlib.Path, config: Config, may_differ: Sequence[str] = ()) -> bool:
  """Checks that a folder holds the run of a config; writes nothing.

  Args:
    workdir: the run folder.
    config: the config, resolved.
    may_differ: sections that do not matter here.

  Returns:
    Whether the config makes it a longer run, which is accepted where the schedule's past stays the
    same.

  Raises:
    UserError: when it holds another config.
  """
  found = difference(_stored_config(workdir / 'config.json'), resolved(config))
  conflicts = {
    field: pair
    for field, pair in found.items()
    if field not in free_fields(config) and field.partition('.')[0] not in may_differ
  }
  if conflicts and set(conflicts) <= set(_LENGTH) and config.optimizer.schedule in OPEN_ENDED:
    if all(old is not None and new is not None and new > old for old, new in conflicts.values()):
      return True
  if conflicts:
    pairs = [f'{field}: {old!r} there, {new!r} asked' for field, (old, new) in conflicts.items()]
    shown = '; '.join(pairs[:6]) + (f'; and {len(pairs) - 6} more' if len(pairs) > 6 else '')
    moved = '; another data.dir must hold the very images of the run' * ('data.dir' in conflicts)
    raise UserError(
      f'{workdir} holds a run of another config ({shown}); choose another --workdir, or ask for '
      f'the same config{moved}'
    )
  return False


def remove_run(workdir: pathlib.Path) -> None:
  """Removes what a run has written, so that it can begin again; other files stay.

  Raises:
    UserError: where something cannot be removed; the checkpoints are then whole.
  """
  for name in _WRITTEN_FOLDERS:
    folder, removed = workdir / name, workdir / f'{name}.removed'
    try:
      if folder.exists():
        folder.rename(removed)  # At once, or not at all.
      if removed.exists():
        shutil.rmtree(removed)
    except OSError as error:
      raise UserError(
        f'{error.filename or folder} cannot be removed ({error.strerror}); remove it, or choose '
        'another --workdir'
      ) from None
  for name in _WRITTEN:
    (workdir / name).unlink(missing_ok=True)


def check_never_saved(workdir: pathlib.Path, saves: Callable[[int], bool]) -> None:
  """Checks that a run without checkpoints has had none: what was trained is not lost silently.

  A mark says so. Runs of before there was one have had none where the log is short: the second save
  of a run waits for its first one.

  Args:
    workdir: the run folder.
    saves: whether the run saves after an update.

  Raises:
    UserError: when the log shows updates behind its second save.
  """
  last = max((row['step'] for row in read_metrics(workdir)), default=0)
  if (workdir / SAVED).exists() or sum(saves(update) for update in range(1, last)) >= 2:
    raise UserError(
      f'{workdir} holds the log of {last} updates and no checkpoint; restore '
      f'{workdir}/checkpoints, or begin again with --restart'
    )


def default_workdir(
  path: str, argument: str, overrides: Mapping[str, object], *, is_study: bool = False
) -> pathlib.Path:
  """The folder of a command that names none: no command with another config shares it.

  Args:
    path: of the config file.
    argument: what is behind its colon.
    overrides: fields that the command sets.
    is_study: whether it is a study, of which more seeds or other pictures do not make another one.
  """
  if is_study:
    overrides = {k: v for k, v in overrides.items() if k.partition('.')[0] not in _OF_NO_RUN}
  parts = [pathlib.Path(path).stem, *argument.replace('=', '-').replace(',', ' ').split()]
  if overrides:
    text = json.dumps(overrides, sort_keys=True, default=str)
    parts.append(hashlib.sha256(text.encode()).hexdigest()[:8])
  return pathlib.Path('runs') / '-'.join(parts)
