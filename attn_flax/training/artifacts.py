"""The files of a run folder, read as they may be found, and written whole or not at all."""

import contextlib
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


def read_json(path: pathlib.Path, fix: str = RESTORE) -> Json:
  """A JSON file of a run folder.

  Args:
    path: the file.
    fix: what to do where it is damaged, for the error.

  Raises:
    UserError: when it is missing or damaged.
  """
  try:
    content = json.loads(read_file(path))
    if not isinstance(content, dict):
      raise ValueError('it holds no mapping')
    return content
  except FileNotFoundError:
    raise UserError(f'{path} does not exist; name the folder of a run with --workdir') from None
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{path} cannot be read ({error}); {fix}') from None


def read_metrics(workdir: pathlib.Path) -> list[Json]:
  """The lines of a run's `metrics.jsonl`: numbers by name; [] without a file.

  Lines that a kill has cut short, or that hold anything else, are left out.
  """
  path, rows = workdir / 'metrics.jsonl', []
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
  """Yields the path to write a file to, which takes its place once the body is done.

  So a reader sees the old file or the new one, never a half. Makes the folder where there is none.

  Args:
    path: the file.
    fix: what to do where it cannot be written, for the error.

  Raises:
    UserError: when it cannot.
  """
  partial = path.with_name(path.name[:60] + '.partial')  # Names have limits of their own.
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
  """Writes a JSON file; raises what `replacing` does."""
  text = json.dumps(content, indent=2) + '\n'
  with replacing(path) as partial:
    partial.write_text(text)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an `.npz` file; raises what `replacing` does."""
  with replacing(path) as partial, partial.open('wb') as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]


def check_writable(folder: pathlib.Path, fix: str) -> None:
  """Makes a folder where there is none, and raises `UserError` where nothing can be written there.

  Args:
    folder: the folder.
    fix: what to do then, for the error.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise UserError(f'the folder {folder} cannot be written ({error.strerror}); {fix}') from None
