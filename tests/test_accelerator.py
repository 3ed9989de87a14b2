"""The script for a new device does all of its parts, and ends in time."""

import csv
import pathlib
import subprocess
import sys
import time

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / 'benchmarks/accelerator.py'
# The column that says why a row was left out; nothing that is small needs a GPU.
SKIPPED = 'skipped'


def run(out, *arguments):
  command = [sys.executable, str(SCRIPT), '--small', f'--out={out}', *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def tables(out):
  found = {}
  for path in out.glob('accelerator_*.csv'):
    with path.open(newline='') as file:
      found[path.name.split('-')[0].removeprefix('accelerator_')] = list(csv.DictReader(file))
  return found


def test_a_part_writes_its_table(tmp_path):
  printed = run(tmp_path, '--minutes=5', '--parts=pixels')
  assert printed.startswith('pixels: done\n')
  (rows,) = tables(tmp_path).values()
  assert len(rows) == 4 and not any(row.get(SKIPPED) for row in rows)
  assert all(row['what'] in printed for row in rows)


def test_it_ends_in_time(tmp_path):
  began = time.monotonic()
  lines = run(tmp_path, '--minutes=0.2').splitlines()
  assert time.monotonic() - began < 30
  parts = [line.partition(': ')[::2] for line in lines[:5]]
  assert [name for name, _ in parts] == ['correct', 'throughput', 'pixels', 'startup', 'loop']
  assert any('ended after' in ended or 'no time is left' in ended for _, ended in parts)
  for rows in tables(tmp_path).values():
    assert rows


@pytest.mark.slow
def test_every_part_works(tmp_path):
  printed = run(tmp_path, '--minutes=15')
  found = tables(tmp_path)
  assert printed.count(': done\n') == len(found) == 5, printed
  assert not [row for rows in found.values() for row in rows if row.get(SKIPPED)]
  errors = [
    float(v) for row in found['correct'] for k, v in row.items() if 'error_float32' in k and v
  ]
  assert len(errors) >= 6 and max(errors) < 1e-4
