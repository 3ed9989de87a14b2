"""The files of a run folder: their names, reading and writing, completely or not at all."""

import contextlib
import enum
import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from attn_flax.errors import UserError
from attn_flax.files import read_file

RESTORE = 'restore it from a copy, or choose another folder'
# The content of a JSON file of a run folder.
Json = dict[str, Any]


class File(enum.StrEnum):
  """The files that a run, and the modes that read it, write into its folder."""

  CONFIG = 'config.json'
  DATASET = 'dataset.json'
  SOURCE = 'init_from.json'
  METRICS = 'metrics.jsonl'
  RESULT = 'result.json'
  PREDICTIONS = 'predictions.npz'
  EVALUATION = 'evaluation.json'
  EXPLANATIONS = 'explanations.json'
  CONTACT_SHEET = 'explanations.png'
  # Empty, written with the first checkpoint: where checkpoints are missing, they were lost.
  SAVED = '.saved'


class Folder(enum.StrEnum):
  """The folders that a run, and the modes that read it, make in its folder."""

  CHECKPOINTS = 'checkpoints'
  TENSORBOARD = 'tensorboard'
  EXPLANATIONS = 'explanations'


# Begins the names of scores and predictions of the moving average of the weights.
AVERAGED = 'ema_'


def score_name(split: str, name: str, *, averaged: bool = False) -> str:
  """The name of a score in the files of a run, such as 'val_loss' or 'test_ema_loss'.

  Args:
    split: 'val', 'train' or 'test'.
    name: the name that the task gives the score.
    averaged: whether it is that of the moving average of the weights.
  """
  return f'{split}_{AVERAGED * averaged}{name}'


def holds_run(workdir: pathlib.Path) -> bool:
  """Whether a folder is that of a run."""
  return (workdir / File.CONFIG).exists()


def read_json(path: pathlib.Path, fix: str = RESTORE) -> Json:
  """Reads a JSON file of a run folder, which holds a mapping.

  Args:
    path: the file.
    fix: what the user can do about a damaged file, for the error message.

  Raises:
    UserError: where it is missing or damaged.
  """
  try:
    content = json.loads(read_file(path))
    if not isinstance(content, dict):
      raise ValueError('not a JSON object')
    return content
  except FileNotFoundError:
    raise UserError(f'{path} does not exist; name the folder of a run with --workdir') from None
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{path} cannot be read ({error}); {fix}') from None


def read_metrics(workdir: pathlib.Path) -> list[Json]:
  """The lines of a run's `metrics.jsonl`, {name: number}; [] without the file.

  Lines that are cut off, because the run was killed, or that hold anything else are left out.

  Raises:
    UserError: where the file cannot be read.
  """
  path, rows = workdir / File.METRICS, []
  try:
    lines = read_file(path).decode(errors='replace').splitlines()
  except FileNotFoundError:
    return []
  except OSError as error:
    raise UserError(f'{path} cannot be read ({error.strerror}); {RESTORE}') from None
  for line in lines:
    with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
      row = json.loads(line)
      row['step'] = int(row['step'])
      if all(isinstance(value, int | float) for value in row.values()):
        rows.append(row)
  return rows


@contextlib.contextmanager
def replacing(
  path: pathlib.Path, fix: str = 'make room there, or choose another --workdir'
) -> Iterator[pathlib.Path]:
  """Yields a temporary path to write a file to, and moves it to `path` after the body.

  A reader sees the old file or the new one, never a part. The folder is made if missing.

  Args:
    path: the file.
    fix: what the user can do where it cannot be written, for the error message.

  Raises:
    UserError: where it cannot be written.
  """
  partial = path.with_name(path.name[:60] + '.partial')  # File systems limit the length of names.
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield partial
    partial.replace(path)
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror}); {fix}') from None
  finally:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content: Mapping[str, object]) -> None:
  """Writes a JSON file, see `replacing`.

  Raises:
    UserError: where it cannot be written.
  """
  text = json.dumps(content, indent=2) + '\n'
  with replacing(path) as partial:
    partial.write_text(text)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an `.npz` file, see `replacing`.

  Raises:
    UserError: where it cannot be written.
  """
  with replacing(path) as partial, partial.open('wb') as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]


def check_writable(folder: pathlib.Path, fix: str) -> None:
  """Makes a folder if it is missing, and checks that files can be written there.

  Args:
    folder: the folder.
    fix: what the user can do where it cannot be written, for the error message.

  Raises:
    UserError: where nothing can be written there.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise UserError(f'the folder {folder} cannot be written ({error.strerror}); {fix}') from None
