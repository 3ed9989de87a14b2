"""The folder of a run: its config, where it was made, its metrics and its results."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from attn_flax.data import FOLDER
from attn_flax.errors import UserError
from attn_flax.training.optimizer import OPEN_ENDED

# The content of a JSON file of a run folder.
Json = dict[str, Any]

_PACKAGES = (
  'attn_flax jax jaxlib flax optax orbax-checkpoint numpy tensorflow-datasets grain ml-collections'
).split()
_FREE = ('data.dir', 'data.download', 'data.enlarge', 'data.workers', 'log_every')
# Fields of a study that choose among its runs or shape its report, and change no run.
_OF_NO_RUN = ('baseline', 'only', 'report', 'seeds', 'select')
# The files that a run writes into its folder.
_WRITTEN = (
  'config.json',
  'dataset.json',
  'init_from.json',
  'metrics.jsonl',
  'result.json',
  'predictions.npz',
)
# Fields that prolong a run.
_LENGTH = ('train.epochs', 'train.steps')


def environment() -> Json:
  """Versions, device, commit, command and date: what a result depends on beside its config."""
  versions = {}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = 'not installed'
  device = jax.devices()[0]
  return {
    'packages': versions,
    'python': platform.python_version(),
    'platform': device.platform,
    'device': device.device_kind,
    'device_count': jax.device_count(),
    'cpu_count': os.cpu_count(),
    'commit': _commit(),
    'command': shlex.join(['python', *sys.argv]),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }


def _commit() -> str | None:
  """The commit of the source, with '+' where files differ from it; None outside a checkout."""
  here = pathlib.Path(__file__).parent
  try:
    git = ['git', '-C', str(here)]
    head = subprocess.run([*git, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=True)
    status = subprocess.run(
      [*git, 'status', '--porcelain', '--untracked-files=no'],
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return head.stdout.strip() + ('+' if status.stdout.strip() else '')


def flatten(tree: Mapping[str, object], prefix: str = '') -> Json:
  """Nested mappings as one, keyed `a.b.c`."""
  flat: Json = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat


def resolved(config: ConfigDict) -> Json:
  """A config as plain JSON values."""
  return json.loads(json.dumps(config.to_dict()))


def difference(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, tuple[Any, Any]]:
  """The fields in which two resolved configs differ, with both values."""
  before, after = flatten(old), flatten(new)
  fields = sorted(before.keys() | after.keys())
  pairs = {field: (before.get(field), after.get(field)) for field in fields}
  return {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}


def read_json(path: pathlib.Path) -> Json:
  """A JSON file of a run folder.

  Raises:
    UserError: when it is missing or damaged.
  """
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    raise UserError(f'{path} does not exist; name the folder of a run with --workdir') from None
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read ({error}); restore it or choose another folder'
    ) from None


def write_json(path: pathlib.Path, content: Mapping[str, object]) -> None:
  """Writes a JSON file at once: a reader sees the old file or the new one, never a half.

  Makes the folder where there is none.

  Raises:
    UserError: when it cannot be written.
  """
  partial = path.with_name(path.name + '.partial')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(content, indent=2) + '\n')
    partial.replace(path)
  except OSError as error:
    raise UserError(
      f'the run folder {path.parent} cannot be written ({error.strerror}); choose another --workdir'
    ) from None


def free_fields(config: ConfigDict) -> tuple[str, ...]:
  """The fields of a config that change no result, so that a run may go on with other ones."""
  # The folder of one's own images is the dataset itself; others are known by their name.
  return tuple(f for f in _FREE if f != 'data.dir' or config.data.name != FOLDER)


def load_config(workdir: pathlib.Path) -> ConfigDict:
  """The config of a run folder."""
  return ConfigDict(read_json(workdir / 'config.json')['config'])


def open_run(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Makes the folder of a run, or checks that the one there holds the same run.

  A longer run is accepted where the schedule's past stays the same; its result is then removed.

  Raises:
    UserError: when the folder cannot be written, or holds another config.
  """
  path = workdir / 'config.json'
  asked = resolved(config)
  if not path.exists():
    write_json(path, {'config': asked, **environment()})
    return
  found = difference(read_json(path)['config'], asked)
  conflicts = {field: pair for field, pair in found.items() if field not in free_fields(config)}
  if conflicts and set(conflicts) <= set(_LENGTH) and config.optimizer.schedule in OPEN_ENDED:
    if all(old is not None and new is not None and new > old for old, new in conflicts.values()):
      write_json(path, {'config': asked, **environment()})
      (workdir / 'result.json').unlink(missing_ok=True)
      return
  if conflicts:
    pairs = [f'{field}: {old!r} there, {new!r} asked' for field, (old, new) in conflicts.items()]
    shown = '; '.join(pairs[:6]) + (f'; and {len(pairs) - 6} more' if len(pairs) > 6 else '')
    raise UserError(
      f'{workdir} holds a run of another config ({shown}); choose another --workdir, or ask for '
      'the same config'
    )


def remove_run(workdir: pathlib.Path) -> None:
  """Removes what a run has written, so that it can begin again; other files stay."""
  for name in _WRITTEN:
    (workdir / name).unlink(missing_ok=True)
  for name in ('checkpoints', 'tensorboard'):
    shutil.rmtree(workdir / name, ignore_errors=True)


def check_never_saved(workdir: pathlib.Path, saves: Callable[[int], bool]) -> None:
  """Checks that a run without checkpoints has had none: what was trained is not lost silently.

  The second save of a run waits for its first one.

  Args:
    workdir: the run folder.
    saves: whether the run saves after an update.

  Raises:
    UserError: when the log shows updates behind its second save.
  """
  path = workdir / 'metrics.jsonl'
  if not path.exists():
    return
  steps = []
  for line in path.read_text(errors='replace').splitlines():
    with contextlib.suppress(ValueError, KeyError, TypeError):  # A line that a kill cut short.
      steps.append(int(json.loads(line)['step']))
  last = max(steps, default=0)
  if sum(saves(update) for update in range(1, last)) >= 2:
    raise UserError(
      f'{workdir} holds the log of {last} updates and no checkpoint; restore '
      f'{workdir}/checkpoints, or begin again with --restart'
    )


def check_dataset(workdir: pathlib.Path, found: Json) -> None:
  """Checks that classes and images are still those of the run, and writes them where it is new."""
  path = workdir / 'dataset.json'
  before = read_json(path) if path.exists() else {}
  for what, name in (('classes', 'class_names'), ('numbers of images', 'examples')):
    if name in before and before[name] != found[name]:
      raise UserError(
        f'the {what} of {found["name"]} have changed since {path} was written; restore them, or '
        'choose another --workdir'
      )
  write_json(path, found)


def task_name(config: ConfigDict) -> str:
  """The name of the task of a config; configs made before the field existed have none."""
  return config.get('task', 'classification')


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
