"""One run on several processes."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import run_files

import main
from attn_flax.training import last_words

ROOT = pathlib.Path(__file__).parents[2]
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
    (['--coordinator=127.0.0.1:1234'], '--num_processes and --process_id is missing'),
    (['--num_processes=2', '--process_id=0'], '--coordinator is missing'),
    (['--coordinator=host', '--num_processes=2', '--process_id=0'], '--coordinator=host'),
    (['--coordinator=h:1', '--num_processes=2', '--process_id=2'], '--process_id=2 .* from 0 to 1'),
    (['--distributed'], 'finds no cluster .*--coordinator=<host>:<port>'),
  ],
)
def test_what_is_missing_is_one_line(flags, text, tmp_path, capfd, monkeypatch):
  from attn_flax.training import processes

  monkeypatch.setattr(processes, '_filter_stderr', lambda: None)
  assert main.run(['main.py', *TINY, *flags, f'--workdir={tmp_path}/run']) == 2
  (line,) = capfd.readouterr().err.splitlines()

  assert re.search(text, line), line
  assert not (tmp_path / 'run').exists()


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
    (LOST, 'error: processes 1, 3 of this run has ended'),
    (LEADER, 'error: process 0 of this run has ended'),
    (b'warning: something\nstep 3\n', 'warning: something\nstep 3\n'),
    (b'[Gloo] Rank 0 is connected\nerror: a line\n', 'error: a line\n'),
  ],
)
def test_the_log_of_a_lost_peer_becomes_a_line(written, passed_on):
  process = subprocess.run(
    [sys.executable, last_words.__file__], input=written, capture_output=True, check=True
  )
  text = process.stderr.decode()
  assert text.startswith(passed_on) and '0x7f' not in text
  assert text.count('\n') == passed_on.count('\n') or text.count('\n') == 1


def start(workdir, *flags):
  """Two processes of two devices each, on loopback; their outputs are in `<workdir>.<number>`."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{probe.getsockname()[1]}'
  started = []
  for number in range(2):
    output = pathlib.Path(f'{workdir}.{number}').open('w')
    started.append(
      subprocess.Popen(
        [
          sys.executable,
          str(ROOT / 'main.py'),
          *(f'--coordinator={address}', '--num_processes=2', f'--process_id={number}'),
          *(*TINY, *flags, f'--workdir={workdir}'),
        ],
        env=_environment(2),
        stdout=output,
        stderr=subprocess.STDOUT,
      )
    )
    output.close()
  return started


def _environment(devices):
  return os.environ | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    'PYTHONPATH': str(ROOT),
  }


def codes(started, seconds=150):
  """The exit codes; processes that do not end in time are killed, and have none."""
  end = time.monotonic() + seconds
  found = []
  for process in started:
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(max(end - time.monotonic(), 0.1))
    found.append(process.poll())
    process.kill()
    process.wait()
  return found


def until_logged(workdir, step, started):
  end = time.monotonic() + 120
  while time.monotonic() < end and all(process.poll() is None for process in started):
    path = workdir / 'metrics.jsonl'
    if path.exists() and f'"step": {step},' in path.read_text():
      return
    time.sleep(0.01)
  raise AssertionError(f'step {step} was not logged')


def last_line(workdir, number):
  return pathlib.Path(f'{workdir}.{number}').read_text().strip().splitlines()[-1]


def assert_same_run(actual, expected):
  assert run_files.steps(actual) == run_files.steps(expected)
  for step in run_files.steps(expected):
    run_files.assert_same_arrays(run_files.state(actual, step), run_files.state(expected, step))
  assert run_files.scores(actual) == run_files.scores(expected)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """The finished run of two processes."""
  workdir = tmp_path_factory.mktemp('two') / 'run'
  assert codes(start(workdir)) == [0, 0], last_line(workdir, 0)
  return workdir


@pytest.mark.slow
def test_two_processes_train_as_one_does(two, tmp_path):
  """Of four devices; the log and the result are written once."""
  one = subprocess.run(
    [sys.executable, str(ROOT / 'main.py'), *TINY, f'--workdir={tmp_path}/one'],
    env=_environment(4),
    capture_output=True,
    check=True,
  )
  assert one.returncode == 0
  lines = [run_files.metrics(folder) for folder in (two, tmp_path / 'one')]
  assert [line['step'] for line in lines[0]] == [line['step'] for line in lines[1]]
  for line, expected in zip(*lines, strict=True):
    for name in expected.keys() & {'loss', 'val_loss'}:
      assert line[name] == pytest.approx(expected[name], rel=2e-5)
  assert '"test_loss"' in pathlib.Path(f'{two}.0').read_text()
  assert '"test_loss"' not in pathlib.Path(f'{two}.1').read_text()


@pytest.mark.slow
@pytest.mark.parametrize('victim', [1, 0])
def test_a_lost_process_ends_the_other_and_is_named(victim, two, tmp_path):
  workdir = tmp_path / 'run'
  started = start(workdir)
  until_logged(workdir, 11, started)
  started[victim].kill()
  began = time.monotonic()
  ended = codes(started)
  assert ended[victim] == -signal.SIGKILL
  assert ended[1 - victim] not in (None, 0) and time.monotonic() - began < 60
  line = last_line(workdir, 1 - victim)
  assert line.startswith(f'error: process {victim} of this run has ended'), line
  assert '0x' not in pathlib.Path(f'{workdir}.{1 - victim}').read_text()
  assert codes(start(workdir)) == [0, 0]
  assert_same_run(workdir, two)


@pytest.mark.slow
def test_a_mistake_ends_all_with_one_line(two):
  assert codes(start(two, '--config.seed=5')) == [2, 2]
  for number in range(2):
    assert 'holds a run of another config (seed: 0 there, 5 asked)' in last_line(two, number)


@pytest.mark.slow
def test_sigterm_to_one_stops_all_at_the_same_update(two, tmp_path):
  workdir = tmp_path / 'run'
  started = start(workdir)
  until_logged(workdir, 11, started)
  started[1].send_signal(signal.SIGTERM)
  assert codes(started) == [143, 143]
  lines = {last_line(workdir, number) for number in range(2)}
  assert len(lines) == 1 and 'saved in' in lines.pop()
  assert codes(start(workdir)) == [0, 0]
  assert_same_run(workdir, two)
