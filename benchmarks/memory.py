"""Memory and files of a long run, and the effect of keeping freed pages on time and memory.

    python benchmarks/memory.py
    python benchmarks/memory.py --parts=long  # the other part, time, needs a quiet machine
    python benchmarks/memory.py --small  # a minute, to see that everything works

A small network trains for 20,000 updates with evaluations and checkpoints, once with the setting of
`training/allocator.py` and once without, while the resident memory of the process and the size of
its run folder are sampled. Then the updates of the default network are timed in processes that take
turns, with the setting and without it. The tables are printed and written to benchmarks/results, as
CSVs whose names hold the conditions.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags
from tables import write_csv

from attn_flax.costs.table import format_table

ROOT = pathlib.Path(__file__).resolve().parents[1]
_SMALL = flags.DEFINE_bool('small', False, 'A few updates.')
_PARTS = flags.DEFINE_list('parts', ['long', 'time'], 'What is measured.')
_OUT = flags.DEFINE_string(
  'out', str(ROOT / 'benchmarks/results'), 'Folder of the CSVs; empty: do not write them.'
)

_COMMAND = """
import sys
from attn_flax.training import allocator
if {kept}:
  allocator.keep_freed_pages()
from attn_flax.commands.command_line import run
sys.exit(run(['main.py', *sys.argv[1:]]))
"""
_SAMPLES = 20  # Of a long run.
_FIRST = _SAMPLES // 10  # Growth is counted after it: buffers and caches are full by then.
_MEANT = _SAMPLES // 4  # Samples of a mean: whether a save is under way makes some 10 MB.


def start(kept: bool, words: list[str], workdir: pathlib.Path) -> subprocess.Popen:
  """Starts a training command; its output goes to `<workdir>.log`.

  Args:
    kept: whether the process keeps freed pages.
    words: the flags.
    workdir: the run folder.
  """
  with open(f'{workdir}.log', 'w') as log:
    return subprocess.Popen(
      [sys.executable, '-c', _COMMAND.format(kept=kept), *words, f'--workdir={workdir}'],
      cwd=ROOT,
      stdout=log,
      stderr=log,
    )


def resident_mb(pid: int) -> float:
  """Resident memory of a process, in 10^6 bytes."""
  pages = int(pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


def folder_mb(folder: pathlib.Path) -> float:
  """Size of the files of a run folder, in 10^6 bytes; files may vanish meanwhile."""
  total = 0
  for path in folder.rglob('*'):
    try:
      total += path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
      continue
  return total / 1e6


def last_update(workdir: pathlib.Path) -> int:
  """The last update in a run's log; 0 without one."""
  try:
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return json.loads(lines[-1])['step']
  except (OSError, ValueError, IndexError):
    return 0


def long_run(kept: bool, updates: int, folder: pathlib.Path) -> list[dict]:
  """Memory and files of one run: a row whenever another 1/20 of its updates is done.

  Raises:
    RuntimeError: when the command fails.
  """
  workdir = folder / f'long_{kept}'
  every = updates // _SAMPLES
  process = start(
    kept,
    [
      f'--config={ROOT}/configs/eca.py:smoke',
      '--config.model.depths=(1,)',
      '--config.model.widths=(8,)',
      '--config.train.batch_size=16',
      '--config.train.ema_decay=0.99',
      f'--config.train.steps={updates}',
      f'--config.checkpoint.every_steps={max(every // 4, 1)}',
      '--config.log_every=10',
    ],
    workdir,
  )
  rows: list[dict] = []
  while process.poll() is None:
    update = last_update(workdir)
    if update >= every * (len(rows) + 1):
      try:
        resident = resident_mb(process.pid)
      except (FileNotFoundError, IndexError):
        break
      rows.append(
        {
          'kept': kept,
          'update': update,
          'resident_mb': round(resident, 1),
          'folder_mb': round(folder_mb(workdir), 3),
          'log_mb': round((workdir / 'metrics.jsonl').stat().st_size / 1e6, 3),
        }
      )
      print(rows[-1], flush=True)
    time.sleep(0.05)
  if process.wait():
    raise RuntimeError(pathlib.Path(f'{workdir}.log').read_text()[-2000:])
  return rows


def growth(rows: list[dict]) -> float:
  """Relative growth of the resident memory from an early quarter of a run to its last quarter."""
  values = [row['resident_mb'] for row in rows]
  before = statistics.mean(values[_FIRST : _FIRST + _MEANT] or values)
  return statistics.mean(values[-_MEANT:] or values) / before - 1


def timed(kept: bool, updates: int, folder: pathlib.Path, trial: int) -> dict[str, float]:
  """The default network: milliseconds of an update, and the memory at most and while it trains.

  Raises:
    RuntimeError: when the command fails.
  """
  workdir = folder / f'timed_{kept}_{trial}'
  process = start(
    kept,
    [
      f'--config={ROOT}/configs/eca.py',
      f'--config.train.steps={updates}',
      f'--config.eval.every_epochs={updates}',
      '--config.log_every=5',
    ],
    workdir,
  )
  held = []
  while process.poll() is None:
    try:
      held.append(resident_mb(process.pid))
    except (FileNotFoundError, IndexError):
      break
    time.sleep(0.1)
  if process.wait():
    raise RuntimeError(pathlib.Path(f'{workdir}.log').read_text()[-2000:])
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  rates = [line['images_per_second'] for line in lines if 'images_per_second' in line][1:]
  return {
    'update_ms': round(64e3 / statistics.median(rates), 1),
    'peak_mb': round(max(held)),
    'training_mb': round(statistics.median(held[-len(held) // 3 :])),
  }


def measure_long(folder: pathlib.Path, updates: int) -> None:
  """Trains for long, prints how memory and files grow, and writes the samples."""
  rows, summary = [], []
  for kept in (True, False):
    found = long_run(kept, updates, folder)
    rows += found
    if found:
      summary.append({'kept': kept, 'growth': round(growth(found), 4), **found[-1]})
  print(format_table(summary))
  write_csv(_OUT.value, 'memory_long', rows)


def measure_time(folder: pathlib.Path, updates: int, turns: int) -> None:
  """Times updates with the setting and without, in turn, prints the ratio and writes the times."""
  rows = []
  for trial in range(turns):
    kept, given = (timed(setting, updates, folder, trial) for setting in (True, False))
    rows.append(
      {
        'trial': trial,
        **{f'kept_{name}': value for name, value in kept.items()},
        **{f'given_back_{name}': value for name, value in given.items()},
        'ratio': round(kept['update_ms'] / given['update_ms'], 3),
      }
    )
    print(rows[-1], flush=True)
  print(format_table(rows))
  print(f'time, kept / given back: {statistics.median(row["ratio"] for row in rows):.3f}')
  write_csv(_OUT.value, 'memory_setting', rows)


def main(argv):
  """Measures, prints the tables and writes them."""
  del argv
  updates, short, turns = (60, 15, 1) if _SMALL.value else (20_000, 60, 6)
  with tempfile.TemporaryDirectory(prefix='memory_') as name:
    if 'long' in _PARTS.value:
      measure_long(pathlib.Path(name), updates)
    if 'time' in _PARTS.value:
      measure_time(pathlib.Path(name), short, turns)


if __name__ == '__main__':
  app.run(main)
