"""Fault injection: which faults a run survives, as a table of (what, tries, survived, lost).

    python benchmarks/faults.py
    python benchmarks/faults.py --small  # minutes, to see that everything works

A small network trains on generated images, in processes of its own, under signals and kills at
random moments, flipped bits, damaged files, limits of the file system, second writers and lost
processes. Then the tests of randomly drawn command lines and library calls and of malformed images
are run and counted. The seeds are fixed. A try is survived if the run ends as it would have without
the fault, or if the fault is refused with an error of one line. The table is printed and written to
benchmarks/results, as a CSV whose name holds the conditions.
"""

import contextlib
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import fault_bench
import numpy as np
import tables
from absl import app, flags, logging
from fault_bench import ROOT, Bench, Row

_SMALL = flags.DEFINE_bool('small', False, 'A few tries of each fault.')
_OUT = flags.DEFINE_string(
  'out', str(ROOT / 'benchmarks/results'), 'Folder of the CSV; empty: do not write it.'
)

# Runs in the new process itself: `preexec_fn` could wait forever for a lock of another thread.
_LIMITED = 'import resource; resource.setrlimit({0}, ({1}, {1}));'
_COMMANDS, _IMAGES = 'tests/commands/test_drawn_commands.py', ('tests/data/test_drawn_images.py',)


def signals(bench: Bench, tries: int, seed: int = 0) -> Row:
  """Sends signals at random moments between start and end of the process, some of them twice.

  Survived: a run that says that it is saved has that checkpoint, a run that goes on ends with the
  same bits, exit codes are those of the signals, and no traceback is printed.
  """
  return _interrupted(bench, 'signals', tries, seed, _signal)


def kills(bench: Bench, tries: int, seed: int = 0) -> Row:
  """Kills a run at random moments and starts the same command again until the run is finished."""
  return _interrupted(bench, 'kills', tries, seed, lambda process, rng: process.kill())


def _signal(process: subprocess.Popen, rng: random.Random) -> None:
  number = rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
  process.send_signal(number)
  if rng.random() < 0.2:
    time.sleep(rng.uniform(0, 1.5))
    process.send_signal(number)


def _interrupted(
  bench: Bench, what: str, tries: int, seed: int, interrupt: Callable[..., None]
) -> Row:
  rng, done, lost, run = random.Random(seed), 0, 0, 0
  while done < tries:
    run += 1
    workdir = bench.folder / f'{what}{run}'
    code: int | None = None
    for _ in range(40):
      process = bench.start(bench.command, workdir)
      # Some moments lie in set-up and compilation, the others in training.
      lines = fault_bench.lines(workdir)
      # Not in the first half second, in which Python itself, not the command, answers a signal.
      wait, trains = rng.uniform(0.5, 6), rng.random() < 0.6 and done < tries
      began = time.monotonic()
      while process.poll() is None and done < tries:
        if time.monotonic() - began > (
          60 if trains and fault_bench.lines(workdir) <= lines + 2 else wait
        ):
          time.sleep(rng.uniform(0, 0.3))
          interrupt(process, rng)
          done += 1
          break
        time.sleep(0.005)
      code = process.wait(300)
      output = pathlib.Path(f'{workdir}.log').read_text()
      saved = re.search(r'stopped after update (\d+) of \d+, saved in', output)
      problems = ['a traceback'] if 'Traceback' in output else []
      if saved and int(saved[1]) not in fault_bench.steps(workdir):
        problems.append(f'{saved[0]}, but that checkpoint is missing')
      # Before the first line of Python runs, a signal ends the process with its own number.
      if code not in (0, -9, 130, 143, 138, -signal.SIGINT, -signal.SIGTERM, -signal.SIGUSR1):
        problems.append(f'exit code {code}')
      lost += bool(problems)
      fault_bench.report(problems, workdir)
      if code == 0:
        break
    problems = bench.differs(workdir) if code == 0 else ['the run does not end']
    lost += bool(problems)
    fault_bench.report(problems, workdir)
    shutil.rmtree(workdir)
  return Row(what, done, done - lost, lost)


def flips(bench: Bench, tries: int, seed: int = 0) -> Row:
  """Flips one bit in the files of the latest checkpoint and reads its weights.

  Survived: the reader raises `Damaged`, or reads the right weights. It runs in this process.
  """
  from attn_flax.training.checkpoints import Checkpoints, Damaged

  rng, lost = random.Random(seed), 0
  workdir = bench.copy('flips')
  step = fault_bench.steps(workdir)[-1]
  folder = workdir / 'checkpoints' / str(step)
  files = [p for p in folder.rglob('*') if p.is_file() and p.stat().st_size]
  weights = [p.stat().st_size for p in files]

  def read() -> bytes:
    reader = Checkpoints(workdir, read_only=True)
    try:
      tree = reader.read_weights(step)
    finally:
      reader.close()
    return b''.join(a.tobytes() for part in tree.values() for a in _leaves(part))

  whole = read()
  for _ in range(tries):
    path = rng.choices(files, weights)[0]
    content = path.read_bytes()
    broken = bytearray(content)
    broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(broken))
    with contextlib.suppress(Damaged):
      lost += read() != whole
    path.write_bytes(content)
  return Row('flipped bits', tries, tries - lost, lost)


def _leaves(tree) -> Iterator[np.ndarray]:
  for name in sorted(tree):
    yield from _leaves(tree[name]) if isinstance(tree[name], dict) else [tree[name]]


def damages(bench: Bench, tries: int, seed: int = 0) -> Row:
  """Empties, cuts, overwrites or removes a file of a run folder, or puts a folder in its place.

  Then the run is continued, evaluated or used for a prediction. Survived: exit code 0, or an error
  of one line and exit code 2; no traceback.
  """
  rng, done, lost = random.Random(seed), 0, 0
  for _ in range(tries):
    workdir = bench.copy('damages', finished=rng.random() < 0.5)
    files = [p for p in sorted(workdir.rglob('*')) if p.is_file() and p.name != '.lock']
    tops = [p for p in files if p.parent == workdir]
    path = rng.choice(tops if rng.random() < 0.6 else files)
    kind = rng.choice(['emptied', 'cut', 'overwritten', 'removed', 'a folder', 'other JSON'])
    content = path.read_bytes()
    if kind in ('removed', 'a folder'):
      path.unlink()
      if kind == 'a folder':
        path.mkdir()
    else:
      path.write_bytes(
        {
          'emptied': b'',
          'cut': content[: len(content) // 2],
          'overwritten': rng.randbytes(len(content)),
          'other JSON': rng.choice([b'[]', b'{}', b'3', b'null', b'{"config": 3}']),
        }[kind]
      )
    words = rng.choice(
      [bench.command, ['--mode=evaluate'], ['--mode=predict', f'--images={bench.image}']]
    )
    code, output = bench.run(words, workdir)
    done += 1
    if code not in (0, 2) or 'Traceback' in output:
      lost += 1
      fault_bench.report([f'{path.relative_to(workdir)} {kind}, {words[0]}: {code}'], workdir)
  return Row('damaged files', done, done - lost, lost)


def disks(bench: Bench, tries: int, seed: int = 0) -> Row:
  """Limits on file size and open files, and removed run folders: exit code 0 or 2, no traceback."""
  rng, lost = random.Random(seed), 0
  code: int | None
  for trial in range(tries):
    workdir = bench.folder / 'disks'
    shutil.rmtree(workdir, ignore_errors=True)
    kind = ('size', 'files', 'removed')[trial % 3]
    if kind == 'removed':
      process = bench.start(bench.command, workdir)
      lines = rng.randrange(3, 40)
      while process.poll() is None and fault_bench.lines(workdir) < lines:
        time.sleep(0.005)
      shutil.rmtree(workdir, ignore_errors=True)
      code, output = process.wait(120), pathlib.Path(f'{workdir}.log').read_text()
    else:
      limit = int(10 ** rng.uniform(3, 6)) if kind == 'size' else rng.randrange(12, 40)
      which = resource.RLIMIT_FSIZE if kind == 'size' else resource.RLIMIT_NOFILE
      code, output = bench.run(bench.command, workdir, before=_LIMITED.format(which, limit))
    # With too few open files Python itself cannot start.
    if code not in (0, 2) or 'Traceback' in output:
      lost += 1
      fault_bench.report([f'{kind}: {code}'], workdir)
  return Row('limits of the file system', tries, tries - lost, lost)


def neighbors(bench: Bench, tries: int, seed: int = 0) -> Row:
  """A second process in the folder of a running one: refused, and the first ends as if alone."""
  rng, lost = random.Random(seed), 0
  for trial in range(tries):
    workdir = bench.folder / f'neighbors{trial}'
    first = bench.start(bench.command, workdir)
    lines = rng.randrange(1, 40)
    while first.poll() is None and fault_bench.lines(workdir) < lines:
      time.sleep(0.005)
    second = subprocess.run(
      [sys.executable, str(ROOT / 'main.py'), *bench.command, f'--workdir={workdir}'],
      env=os.environ | {'PYTHONPATH': str(ROOT)},
      capture_output=True,
      text=True,
    )
    problems = [] if first.wait(300) == 0 else ['the first process failed']
    if first.returncode == 0 and second.returncode == 2:
      if f'process {first.pid} on' not in second.stderr:
        problems.append('the error does not name the first process')
    elif 'holds a finished run' not in second.stdout:
      problems.append(f'the second process ended with exit code {second.returncode}')
    problems += bench.differs(workdir)
    lost += bool(problems)
    fault_bench.report(problems, workdir)
    shutil.rmtree(workdir)
  return Row('second writers', tries, tries - lost, lost)


def processes(bench: Bench, tries: int, seed: int = 0) -> Row:
  """Kills one of two processes: the other ends and names it; a restart ends with equal arrays."""
  rng, lost = random.Random(seed), 0
  whole = bench.folder / 'two'
  if fault_bench.codes(fault_bench.pair(bench, whole)) != [0, 0]:
    raise RuntimeError(pathlib.Path(f'{whole}-0.log').read_text())
  for trial in range(tries):
    workdir = bench.folder / f'processes{trial}'
    pair, victim = fault_bench.pair(bench, workdir), trial % 2
    lines = rng.randrange(6, 16)
    while all(p.poll() is None for p in pair) and fault_bench.lines(workdir) < lines:
      time.sleep(0.01)
    pair[victim].kill()
    began = time.monotonic()
    fault_bench.codes(pair)
    output = pathlib.Path(f'{workdir}-{1 - victim}.log').read_text()
    problems = ['it took over a minute to end'] if time.monotonic() - began > 60 else []
    if f'error: process {victim} of this run has ended' not in output or ' @ 0x' in output:
      problems.append('the error does not name the lost process')
    if fault_bench.codes(fault_bench.pair(bench, workdir)) != [0, 0]:
      problems.append('the restarted run failed')
    elif fault_bench.progress(workdir, 40)['digests'] != fault_bench.progress(whole, 40)['digests']:
      problems.append('the arrays differ')
    lost += bool(problems)
    fault_bench.report(problems, workdir)
  return Row('lost processes', tries, tries - lost, lost)


def inputs(bench: Bench, tests: Sequence[str], seed: int = 0) -> Row:
  """Randomly drawn commands and library calls: each works, or a one-line error names the field."""
  del bench, seed
  return fault_bench.answered('command lines and calls', tests)


def images(bench: Bench, tests: Sequence[str], seed: int = 0) -> Row:
  """Malformed images: each is decoded, or refused with a reason."""
  del bench, seed
  return fault_bench.answered('malformed images', tests)


# Each part with its number of tries, or its tests; then the same for `--small`.
PARTS = (
  (kills, 40, 2),
  (signals, 60, 2),
  (flips, 200, 10),
  (damages, 60, 3),
  (disks, 15, 3),
  (neighbors, 4, 1),
  (processes, 4, 1),
  (inputs, (_COMMANDS, 'tests/test_drawn_library.py'), (f'{_COMMANDS}::test_drawn_fields[run]',)),
  (images, _IMAGES, _IMAGES),
)


def main(argv: list[str]) -> None:
  """Runs all parts, prints the table and writes it."""
  del argv
  logging.set_verbosity(logging.FATAL)
  rows: list[Row] = []
  with tempfile.TemporaryDirectory() as folder:
    bench = Bench(pathlib.Path(folder))
    for part, many, few in PARTS:
      began = time.monotonic()
      rows.append(part(bench, few if _SMALL.value else many))
      row = rows[-1]
      print(
        f'{row.what:28}{row.tries:5} tries {row.survived:5} survived {row.lost:4} lost '
        f'({time.monotonic() - began:.0f} s)',
        flush=True,
      )
  tables.write_csv(_OUT.value, 'faults', [row._asdict() for row in rows])


if __name__ == '__main__':
  app.run(main)
