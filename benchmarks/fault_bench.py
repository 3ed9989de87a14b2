"""What `faults.py` damages and stops: a small run in processes of its own. And it counts tests."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]

_TIMES = ('train_seconds', 'compile_seconds', 'images_per_second')
# Runs in the new process itself: `preexec_fn` could wait forever for a lock of another thread.
_PROGRAM = 'import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])'
_UPDATES = 150  # Of a run; an epoch has 30.


class Row(NamedTuple):
  """One row of the table.

  Attributes:
    what: the kind of fault.
    tries: how often it was tried.
    survived: tries after which all was right.
    lost: the other tries.
  """

  what: str
  tries: int
  survived: int
  lost: int


class Bench:
  """A folder with generated images, a finished run as the reference, and the command that made it.

  Attributes:
    folder: the folder.
    image: one of the test images.
    command: the flags of the run, without `--workdir`.
    whole: the folder of the reference run.
  """

  def __init__(self, folder: pathlib.Path):
    """Makes the images and the reference run in a folder.

    Raises:
      RuntimeError: when the run fails.
    """
    self.folder = folder
    images = folder / 'images'
    rng = np.random.default_rng(0)
    for split, count in (('train', 160), ('val', 40), ('test', 40)):
      for label in range(3):
        place = images / split / f'class{label}'
        place.mkdir(parents=True)
        for i in range(count):
          pixels = rng.integers(0, 195, (16, 16, 3), dtype=np.uint8)
          pixels[:, :, label] += 60
          Image.fromarray(pixels).save(place / f'{i}.png')
    self.image = images / 'test' / 'class0' / '0.png'
    self.command = [
      f'--config={ROOT}/configs/eca.py:folder,smoke',
      f'--config.data.dir={images}',
      '--config.data.size=16',
      '--config.train.batch_size=16',
      f'--config.train.steps={_UPDATES}',
      '--config.checkpoint.every_steps=5',
      '--config.log_every=3',
      '--config.train.ema_decay=0.9',
    ]
    self.whole = folder / 'whole'
    code, output = self.run(self.command, self.whole)
    if code:
      raise RuntimeError(output)

  def start(
    self, words: list[str], workdir: pathlib.Path, log: str = '', before: str = '', **options
  ) -> subprocess.Popen:
    """Starts a command; its output goes to `<workdir><log>.log`.

    Args:
      words: the flags.
      workdir: the run folder.
      log: the end of the name of the log file.
      before: Python statements that the new process executes first.
      **options: options of `subprocess.Popen`; `env` adds to the environment.
    """
    environment = os.environ | {
      'JAX_COMPILATION_CACHE_DIR': str(self.folder / 'cache'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'PYTHONPATH': str(ROOT),
      **options.pop('env', {}),
    }
    with open(f'{workdir}{log}.log', 'w') as file:
      return subprocess.Popen(
        [
          sys.executable,
          *(['-c', before + _PROGRAM] if before else []),
          str(ROOT / 'main.py'),
          *words,
          f'--workdir={workdir}',
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        **options,
      )

  def run(self, words: list[str], workdir: pathlib.Path, **options) -> tuple[int | None, str]:
    """Runs a command to its end.

    Returns:
      The exit code, None if the command was killed after 300 seconds; and the printed text.
    """
    process = self.start(words, workdir, **options)
    try:
      code: int | None = process.wait(300)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      code = None
    return code, pathlib.Path(f'{workdir}.log').read_text()

  def copy(self, name: str, *, finished: bool = True) -> pathlib.Path:
    """A copy of the reference run.

    Args:
      name: of the new folder; an old one is replaced.
      finished: False removes the result, as if the run had been killed before its last evaluation.
    """
    workdir = self.folder / name
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(self.whole, workdir)
    if not finished:
      (workdir / 'result.json').unlink()
    return workdir

  def differs(self, workdir: pathlib.Path) -> list[str]:
    """What differs between a run and the reference run, apart from times, and files left behind."""
    found = []
    if steps(workdir) != steps(self.whole):
      found.append(f'checkpoints {steps(workdir)}')
    for step in set(steps(workdir)) & set(steps(self.whole)):
      digests = [progress(run, step)['digests'] for run in (workdir, self.whole)]
      found += [f'arrays of {step}'] if digests[0] != digests[1] else []
    results = [json.loads((run / 'result.json').read_text()) for run in (workdir, self.whole)]
    logs = [
      [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
      for run in (workdir, self.whole)
    ]
    for content in (*results, *logs[0], *logs[1]):
      for name in _TIMES:
        content.pop(name, None)
    found += ['the result'] if results[0] != results[1] else []
    found += ['the log'] if logs[0] != logs[1] else []
    strays = [p.name for p in workdir.rglob('*') if 'tmp' in p.name or 'partial' in p.name]
    return found + strays


def steps(workdir: pathlib.Path) -> list[int]:
  """The updates of the checkpoints in a run folder, in order."""
  folder = workdir / 'checkpoints'
  return (
    sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
  )


def progress(workdir: pathlib.Path, step: int) -> dict:
  """The JSON metadata of a checkpoint: progress, scores and digests."""
  path = workdir / 'checkpoints' / str(step) / 'progress' / 'metadata'
  return json.loads(path.read_text())


def lines(workdir: pathlib.Path) -> int:
  """Number of lines in a run's log; 0 without one."""
  path = workdir / 'metrics.jsonl'
  return path.read_text().count('\n') if path.exists() else 0


def report(problems: list[str], workdir: pathlib.Path) -> None:
  """Prints the problems of a run, if there are any."""
  if problems:
    print(f'{workdir.name}: {"; ".join(problems)}', flush=True)


def codes(started: list[subprocess.Popen]) -> list[int | None]:
  """Exit codes of processes; None for one that was killed after 150 seconds."""
  codes: list[int | None] = []
  for process in started:
    try:
      codes.append(process.wait(150))
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      codes.append(None)
  return codes


def pair(bench: Bench, workdir: pathlib.Path) -> list[subprocess.Popen]:
  """Starts one run on two processes; their logs are `<workdir>-0.log` and `<workdir>-1.log`."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{probe.getsockname()[1]}'
  started = []
  for number in range(2):
    words = [f'--coordinator={address}', '--num_processes=2', f'--process_id={number}']
    words = [*bench.command, '--config.train.steps=40', *words]
    started.append(bench.start(words, workdir, f'-{number}'))
  return started


def answered(what: str, tests: Sequence[str]) -> Row:
  """Adds up the counts that tests of randomly drawn values print, see `tests/helpers/drawn.py`.

  Args:
    what: what the row counts.
    tests: arguments of pytest.

  Raises:
    RuntimeError: when a test fails for another reason than a wrong answer.
  """
  command = [sys.executable, '-m', 'pytest', '-q', '-m', '', *tests]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  counts = re.findall(r'^(\d+) [a-z ]+: \{.*\}, (\d+) wrong$', done.stdout, re.MULTILINE)
  tries, lost = (sum(map(int, column)) for column in zip(*counts, strict=True))
  if done.returncode and not lost:
    raise RuntimeError(done.stdout)
  return Row(what, tries, tries - lost, lost)
