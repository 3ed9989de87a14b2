"""One run on several processes."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import pytest
import run_files

from attn_flax.commands import command_line
from attn_flax.data.sources.cluttered_digits import build
from attn_flax.training.distributed import last_words

ROOT = pathlib.Path(__file__).parents[3]
TINY = (
  f'--config={ROOT}/configs/eca.py:smoke',
  '--config.model.depths=(1,)',
  '--config.model.widths=(8,)',
  '--config.train.steps=24',
  '--config.train.batch_size=32',
  '--config.checkpoint.every_steps=8',
  '--config.log_every=1',
)


@pytest.mark.parametrize(
  ('flags', 'text'),
  [
    (['--coordinator=127.0.0.1:1234'], '--num_processes and --process_id are missing'),
    (['--num_processes=2', '--process_id=0'], '--coordinator is missing'),
    (['--coordinator=host', '--num_processes=2', '--process_id=0'], '--coordinator=host'),
    (['--coordinator=h:1', '--num_processes=2', '--process_id=2'], '--process_id=2 .* from 0 to 1'),
    (['--distributed'], 'finds no cluster .*--coordinator=<host>:<port>'),
  ],
)
def test_what_is_missing_is_one_line(flags, text, tmp_path, capfd, monkeypatch):
  from attn_flax.training.distributed import joining

  monkeypatch.setattr(joining, '_filter_outputs', lambda: None)
  assert command_line.run(['main.py', *TINY, *flags, f'--workdir={tmp_path}/run']) == 2
  (line,) = capfd.readouterr().err.splitlines()

  assert re.search(text, line), line
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('mode', 'text'),
  [
    ('compare', '--config.only=eca/seed1'),
    ('predict', 'leave it out, and start one process'),
    ('explain', 'leave it out, and start one process'),
    ('import', 'leave it out, and start one process'),
    ('cost', 'leave it out, and start one process'),
  ],
)
def test_modes_of_one_process_say_what_to_do(mode, text, tmp_path, capfd):
  assert command_line.run(['main.py', f'--mode={mode}', '--distributed']) == 2
  (line,) = capfd.readouterr().err.splitlines()
  assert f'does nothing in --mode={mode}; it belongs to --mode=train and --mode=evaluate' in line
  assert text in line


LOST = b"""E1126 15:44:44.7 1 coordination_service.cc:1549] Use error polling to propagate:
The following tasks are unhealthy (stopped sending heartbeats):
1
3
The tasks have crashed.
F1126 15:44:44.7 1 client.h:80] Terminating process because the JAX distributed service detected
*** Check failure stack trace: ***
    @     0x7f5407a40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""
LEADER = b"""W1126 15:45:35.9 1 preemption_sync_manager.cc:147] Failed: UNAVAILABLE: Socket closed
E1126 15:44:49.9 1 coordination_service_agent.cc:289] Polled an error
F1126 15:44:49.9 1 client.h:80] Failed to send RPC. Either the leader task was preempted
    @     0x7f5407a40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""


@pytest.mark.parametrize(
  ('written', 'passed_on'),
  [
    (LOST, 'error: processes 1, 3 of this run have ended'),
    (LEADER, 'error: process 0 of this run has ended'),
    (b'warning: something\nstep 3\n', 'warning: something\nstep 3\n'),
    (b'[Gloo] Rank 0 is connected\nerror: a line\n', 'error: a line\n'),
    (b'[Gloo] Rank [Gloo] Rank 01 is\n peer ranks. : 3\n3\n\n7 of 7\n', '7 of 7\n'),
    (b'3\n', '3\n'),
  ],
)
def test_the_log_of_a_lost_peer_becomes_a_line(written, passed_on):
  process = subprocess.run(
    [sys.executable, last_words.__file__], input=written, capture_output=True, check=True
  )
  text = process.stderr.decode()
  assert text.startswith(passed_on) and '0x7f' not in text
  assert text.count('\n') == passed_on.count('\n') or text.count('\n') == 1


def free_address():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{probe.getsockname()[1]}'


def start(
  workdir, *flags, each=((), ()), only=(0, 1), config=TINY, folders=(ROOT, ROOT), slurm=False
):
  """Starts two processes with two devices each, connected by loopback.

  Args:
    workdir: the run folder.
    *flags: flags of both processes.
    each: further flags of either process.
    only: numbers of the processes that are started.
    config: flags of the config.
    folders: the working directory of either process.
    slurm: whether the processes get their numbers by SLURM's variables instead of flags.
  """
  address = free_address()
  port = address.rpartition(':')[2]

  def place(number):
    if slurm:
      return ['--distributed']
    return [f'--coordinator={address}', '--num_processes=2', f'--process_id={number}']

  def environment(number):
    if not slurm:
      return {}
    return {
      'SLURM_JOB_ID': '1',
      'SLURM_STEP_NODELIST': 'localhost',
      'SLURM_NTASKS': '2',
      'SLURM_PROCID': str(number),
      'SLURM_LOCALID': str(number),
      'JAX_COORDINATOR_PORT': port,
    }

  return [
    subprocess.Popen(
      [
        *(sys.executable, str(ROOT / 'main.py'), *place(number)),
        *(*config, f'--workdir={workdir}', *flags, *each[number]),
      ],
      cwd=folders[number],
      env=_environment(2) | environment(number),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in only
  ]


def _environment(devices):
  return os.environ | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    'PYTHONPATH': str(ROOT),
  }


class Ended(NamedTuple):
  """How processes ended: exit codes, None for one that did not end in time; and their output."""

  codes: list[int | None]
  out: list[str]
  err: list[str]

  def last_line(self, number):
    return self.err[number].strip().splitlines()[-1]


def ended(started, seconds=150):
  """Waits for processes to end, and kills those that do not."""
  end = time.monotonic() + seconds
  found = Ended([], [], [])
  for process in started:
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(max(end - time.monotonic(), 0.1))
    found.codes.append(process.poll())
    process.kill()
    # Reads until the filter process has written everything.
    out, err = process.communicate()
    found.out.append(out)
    found.err.append(err)
  return found


def until_logged(workdir, step, started):
  end = time.monotonic() + 120
  while time.monotonic() < end and all(process.poll() is None for process in started):
    path = workdir / 'metrics.jsonl'
    if path.exists() and f'"step": {step},' in path.read_text():
      return
    time.sleep(0.01)
  raise AssertionError(f'step {step} was not logged')


def assert_same_run(actual, expected):
  assert run_files.steps(actual) == run_files.steps(expected)
  for step in run_files.steps(expected):
    run_files.assert_same_arrays(run_files.state(actual, step), run_files.state(expected, step))
  assert run_files.scores(actual) == run_files.scores(expected)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """The finished run of two processes, and its output; the dataset was prepared before."""
  build.prepare()
  workdir = tmp_path_factory.mktemp('two') / 'run'
  run = ended(start(workdir))
  assert run.codes == [0, 0], run.err
  return workdir, run


@pytest.mark.slow
def test_two_processes_train_as_one_does(two, tmp_path):
  """As one process with four devices does; process 0 alone writes the log and the result."""
  workdir, run = two
  one = subprocess.run(
    [sys.executable, str(ROOT / 'main.py'), *TINY, f'--workdir={tmp_path}/one'],
    env=_environment(4),
    capture_output=True,
    check=True,
  )
  assert one.returncode == 0
  lines = [run_files.metrics(folder) for folder in (workdir, tmp_path / 'one')]
  assert [line['step'] for line in lines[0]] == [line['step'] for line in lines[1]]
  for line, expected in zip(*lines, strict=True):
    for name in expected.keys() & {'loss', 'val_loss'}:
      assert line[name] == pytest.approx(expected[name], rel=2e-5)
  assert 'test: top1 ' in run.out[0] and 'Gloo' not in run.out[0]
  assert run.out[1] == run.err[0] == run.err[1] == ''


@pytest.mark.slow
@pytest.mark.parametrize('victim', [1, 0])
def test_a_lost_process_ends_the_other_and_is_named(victim, two, tmp_path):
  workdir, other = tmp_path / 'run', 1 - victim
  started = start(workdir)
  until_logged(workdir, 11, started)
  started[victim].kill()
  began = time.monotonic()
  run = ended(started)
  assert run.codes[victim] == -signal.SIGKILL
  assert run.codes[other] not in (None, 0) and time.monotonic() - began < 60
  line = run.last_line(other)
  assert line.startswith(f'error: process {victim} of this run has ended'), line
  assert '0x' not in run.err[other]
  run = ended(start(workdir))
  assert run.codes == [0, 0], run.err
  assert_same_run(workdir, two[0])


@pytest.mark.slow
def test_a_mistake_ends_all_with_one_line(two):
  run = ended(start(two[0], '--config.seed=5'))
  assert run.codes == [2, 2]
  assert run.err[0] == run.err[1] and run.err[0].count('\n') == 1
  assert 'holds a run of another config (seed: 0 there, 5 asked)' in run.err[0]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('each', 'text'),
  [
    (
      (['--workdir=/a'], ['--workdir=/b']),
      "differ (--workdir: '/a' in process 0, '/b' in process 1); start all of them together, with",
    ),
    (([], ['--config.seed=3']), 'differ (config.seed: 0 in process 0, 3 in process 1)'),
    (([], ['--num_processes=3']), 'differ (num_processes: 2 in process 0, 3 in process 1)'),
    (([], ['--restrat']), 'unknown flag --restrat; did you mean --restart?'),
    ((['--restrat'], []), 'unknown flag --restrat; did you mean --restart?'),
  ],
)
def test_processes_that_are_told_different_things_end_with_one_line(each, text, tmp_path):
  began = time.monotonic()
  run = ended(start(tmp_path / 'run', each=each))
  assert run.codes == [2, 2] and time.monotonic() - began < 60
  assert run.err[0] == run.err[1] and run.err[0].count('\n') == 1
  assert text in run.err[0]
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_what_fails_in_process_0_alone_ends_all_with_its_line(tmp_path):
  workdir = tmp_path / 'run'
  workdir.mkdir()
  (workdir / 'tensorboard').write_text('where the log would have a folder')
  run = ended(start(workdir))
  assert run.codes == [2, 2]
  assert run.err[0] == run.err[1] and run.err[0].count('\n') == 1
  assert f'error: the log in {workdir} cannot be written (File exists)' in run.err[0]


@pytest.mark.slow
@pytest.mark.parametrize('here', [0, 1])
def test_a_process_that_does_not_come_is_named(here, tmp_path):
  run = ended(start(tmp_path / 'run', '--join_seconds=2', only=[here]), 60)
  assert run.codes == [2] and run.err[0].count('\n') == 1
  assert f'error: process {1 - here} did not come to 127.0.0.1:' in run.err[0]
  assert 'within 2 s' in run.err[0]


@pytest.mark.slow
def test_a_folder_that_is_not_shared_is_one_line(tmp_path):
  """As local folders of different machines are not."""
  folders = [tmp_path / 'a', tmp_path / 'b']
  for folder in folders:
    folder.mkdir()
  run = ended(start('run', folders=folders))
  assert run.codes == [2, 2]
  assert run.err[0] == run.err[1] and run.err[0].count('\n') == 1
  assert 'process 1 does not see the run/config.json of process 0' in run.err[0]


@pytest.mark.slow
def test_sigterm_to_one_stops_all_at_the_same_update(two, tmp_path):
  workdir = tmp_path / 'run'
  started = start(workdir)
  until_logged(workdir, 11, started)
  started[1].send_signal(signal.SIGTERM)
  run = ended(started)
  assert run.codes == [143, 143], run.err
  assert run.last_line(0) == run.last_line(1) and 'saved in' in run.last_line(0)
  run = ended(start(workdir))
  assert run.codes == [0, 0], run.err
  assert_same_run(workdir, two[0])


@pytest.mark.slow
@pytest.mark.parametrize('asked', [1, 0])
def test_the_second_signal_ends_all_at_once(asked, tmp_path):
  workdir = tmp_path / 'run'
  started = start(workdir, '--config.train.steps=500')
  until_logged(workdir, 3, started)
  for _ in range(2):
    started[asked].send_signal(signal.SIGINT)
    time.sleep(0.02)
  began = time.monotonic()
  run = ended(started)
  assert run.codes == [130, 130] and time.monotonic() - began < 10, run.err
  for number in range(2):
    assert run.last_line(number) == 'stopped by SIGINT; what was saved before is whole'


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(two, tmp_path):
  """With processes that find each other by SLURM's variables."""
  workdir, _ = two
  run = ended(start(workdir, '--mode=evaluate', f'--output={tmp_path}', config=(), slurm=True))
  assert run.codes == [0, 0], run.err
  scores = json.loads(run.out[0])
  assert run.out[1] == run.err[1] == ''
  assert run.err[0].startswith('test: top1 ') and len(run.err[0].splitlines()) == 3
  assert {name: scores[name] for name in run_files.scores(workdir)} == run_files.scores(workdir)
  assert run_files.read(tmp_path, 'evaluation.json')['test_loss'] == scores['test_loss']
  alone = tmp_path / 'alone'
  arguments = ['--mode=evaluate', f'--workdir={workdir}', f'--output={alone}']
  assert command_line.run(['main.py', *arguments]) == 0
  one = run_files.read(alone, 'evaluation.json')
  assert one['test_loss'] == pytest.approx(scores['test_loss'], rel=1e-5)
  assert (one['test_top1'], one['test_count']) == (scores['test_top1'], scores['test_count'])


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_by_all(two, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(two[0], workdir)
  (workdir / 'result.json').unlink()
  flip_bytes(workdir / 'checkpoints' / '24' / 'state')
  run = ended(start(workdir))
  assert run.codes == [0, 0], run.err
  (line,) = run.err[0].splitlines()
  assert re.fullmatch(
    r'warning: .*/checkpoints/24 .*damaged.*; checkpoint 16 is used instead', line
  )
  assert run.err[1] == ''
  assert 'step 16/24' not in run.out[0] and 'step 17/24' in run.out[0]
  assert_same_run(workdir, two[0])


def flip_bytes(folder):
  """A bit of each file of arrays."""
  for path in [path for path in folder.rglob('d/*') if path.is_file()]:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
