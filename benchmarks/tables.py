"""The CSV of a benchmark, in a file whose name states the conditions."""

import csv
import os
import pathlib
import re
import sys

import jax


def conditions() -> str:
  """Device, cores and versions, in a form that fits into a file name."""
  kind = re.sub(r'\W+', '_', jax.devices()[0].device_kind).lower()
  python = f'py{sys.version_info.major}{sys.version_info.minor}'
  return f'{kind}-{os.cpu_count()}cores-jax{jax.__version__}-{python}'


def write_csv(folder: str, name: str, rows: list[dict]) -> None:
  """Writes rows and prints where.

  Args:
    folder: where to write; created if it does not exist; '' writes nothing.
    name: of the benchmark, with its own conditions; device, cores and versions are added.
    rows: the table; rows may have different columns.
  """
  if folder:
    path = pathlib.Path(folder) / f'{name}-{conditions()}.csv'
    write_rows(path, rows)
    print(f'written to {path}')


def write_rows(path: pathlib.Path, rows: list[dict]) -> None:
  """Writes rows, which may have different columns, to a file whose folder is created."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
