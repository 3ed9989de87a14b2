"""Everything that is to be known of a new device, within some minutes.

    python benchmarks/accelerator.py --minutes=9 --out=DIR
    python benchmarks/accelerator.py --small  # tiny sizes, to see that everything works

Needs nothing but the checkout and the packages that it can import; what is missing is a row with
the reason. Each part (`device_parts/`) is a process of its own with a share of the minutes that are
left: it writes its rows as they come, and is ended when its time is over. What is worth most comes
first. The tables are printed together at the end.
"""

import argparse
import csv
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

FOLDER = pathlib.Path(__file__).resolve().parent
# What the parts import beside the installed packages.
_FOLDERS = (FOLDER.parent, FOLDER, FOLDER.parent / 'tests/golden')
# Each part with its share of the time; what one leaves, the next ones have.
PARTS = {'correct': 0.2, 'throughput': 0.5, 'pixels': 0.15, 'startup': 0.1, 'loop': 0.05}
_MARGIN_S = 5  # For the tables.
_GRACE_S = 3  # For a part to end by itself.


def run(part: str, seconds: float, out: pathlib.Path, small: bool) -> str:
  """Runs a part; returns how it ended."""
  command = [sys.executable, str(FOLDER / 'device_parts' / f'{part}.py')]
  command += [f'--seconds={seconds:.0f}', f'--out={out}', *['--small'] * small]
  before = os.environ.get('PYTHONPATH')
  environment = {
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # JAX and PyTorch share the device.
    'PYTHONPATH': os.pathsep.join([*map(str, _FOLDERS), *[before] * bool(before)]),
  }
  with (out / f'{part}.log').open('w') as log:
    process = subprocess.Popen(
      command,
      stdout=log,
      stderr=subprocess.STDOUT,
      env=os.environ | environment,
      start_new_session=True,
    )
    try:
      code = process.wait(seconds + _GRACE_S)
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)  # Also what it has started.
      process.wait()
      return f'ended after {seconds:.0f} s'
  return 'done' if code == 0 else f'failed with exit code {code}, see {part}.log'


def show(out: pathlib.Path) -> None:
  """Prints the tables that the parts have written."""
  for path in sorted(out.glob('accelerator_*.csv')):
    print(f'\n{path.name}')
    with path.open(newline='') as file:
      for row in csv.DictReader(file):
        what = row.pop('what', '')
        values = ', '.join(f'{name} {value}' for name, value in row.items() if value)
        print(f'  {what}: {values}')


def main() -> None:
  """Runs the parts and prints their tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--minutes', type=float, default=9, help='Time for all of it.')
  parser.add_argument('--out', default='', help='Folder of the CSVs and logs; empty: none is kept.')
  parser.add_argument('--small', action='store_true', help='Tiny sizes.')
  parser.add_argument('--parts', default=','.join(PARTS), help='Which parts.')
  given = parser.parse_args()
  end = time.monotonic() + 60 * given.minutes - _MARGIN_S
  with tempfile.TemporaryDirectory() as spare:
    out = pathlib.Path(given.out or spare)
    out.mkdir(parents=True, exist_ok=True)
    names = given.parts.split(',')
    for i, part in enumerate(names):
      share = PARTS[part] / sum(PARTS[name] for name in names[i:])
      seconds = share * (end - time.monotonic()) - _GRACE_S
      ended = run(part, seconds, out, given.small) if seconds > 1 else 'left out: no time is left'
      print(f'{part}: {ended}', flush=True)
    show(out)


if __name__ == '__main__':
  main()
