"""The CSV of a benchmark, in a file whose name holds the conditions."""

import csv
import os
import pathlib
import re
import sys

import jax


def write_csv(folder: str, name: str, rows: list[dict]) -> None:
  """Writes rows to a CSV file, and prints its path.

  Args:
    folder: folder of the file, made if it is missing; '' writes nothing.
    name: name of the benchmark and its own conditions; device, cores and versions are added.
    rows: the table; rows may differ in their columns.
  """
  if not folder:
    return
  kind = re.sub(r'\W+', '_', jax.devices()[0].device_kind).lower()
  python = f'py{sys.version_info.major}{sys.version_info.minor}'
  conditions = f'{kind}-{os.cpu_count()}cores-jax{jax.__version__}-{python}'
  path = pathlib.Path(folder) / f'{name}-{conditions}.csv'
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
  print(f'written to {path}')
