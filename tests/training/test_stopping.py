"""Requests to stop: acknowledged at once, and followed where no work is lost."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from attn_flax.training import stopping
from attn_flax.training.stopping import Stop, Stopped

ROOT = pathlib.Path(__file__).parents[2]
# A command that waits in a call that runs no Python code, as in a compilation or a long update.
COMMAND = """
import contextlib, signal, sys, time
from attn_flax.training import stopping

# A shell leaves them ignored, by `nohup` and in the background.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
stopping.watch_process()
with stopping.deferred() if 'deferred' in sys.argv else contextlib.nullcontext() as stop:
  print('waits', flush=True)
  if 'again' in sys.argv:
    time.sleep(1000)  # A single call that does not return to the loop.
  for _ in range(3000):
    time.sleep(0.01)
    if stop and stop.asked:
      raise SystemExit(f'saved, and asked by {stop.asked}')
"""


def start(*words):
  process = subprocess.Popen(
    [sys.executable, '-c', COMMAND, *words],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'waits\n'
  return process


@pytest.mark.parametrize(
  ('name', 'code'), [('SIGINT', 130), ('SIGTERM', 143), ('SIGUSR1', 138), ('SIGHUP', 129)]
)
def test_where_nothing_is_unsaved_the_process_ends_at_once(name, code):
  process = start()
  process.send_signal(getattr(signal, name))
  _, err = process.communicate(timeout=10)
  assert process.returncode == code
  assert err == f'stopped by {name}; what was saved before is whole\n'


def test_the_first_signal_is_acknowledged_and_left_to_the_loop():
  process = start('deferred')
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=10)
  assert process.returncode == 1
  assert err.splitlines() == [
    'stopping after this update; a second signal ends the run at once',
    f'saved, and asked by {signal.SIGTERM:d}',
  ]


def test_the_second_signal_ends_a_call_that_does_not_return():
  """Python runs no signal handler during the call, but a thread receives the signals."""
  process = start('deferred', 'again')
  for _ in range(2):
    process.send_signal(signal.SIGINT)
    first = process.stderr.readline()
    assert 'stopping after this update' in first or 'stopped by SIGINT' in first
  process.communicate(timeout=10)
  assert process.returncode == 130


def heard(*numbers):
  """The signals by which `stop` ends the process, of some that it hears while deferred."""
  left = []
  stop = Stop(left.append)
  with pytest.raises(Stopped), stop.deferred():
    for number in numbers:
      stop.hear(number)
    assert stop.asked == numbers[0]
  return left


def test_a_scheduler_may_repeat_itself_and_a_person_means_it():
  assert heard(signal.SIGTERM, signal.SIGTERM) == []
  assert heard(signal.SIGINT, signal.SIGINT) == [signal.SIGINT]
  assert heard(signal.SIGUSR1, signal.SIGTERM) == [signal.SIGTERM]


def test_a_repeated_signal_leaves_once_the_first_is_old(monkeypatch):
  monkeypatch.setattr(stopping, '_SAME_REQUEST_SECONDS', 0.0)
  assert heard(signal.SIGTERM, signal.SIGTERM) == [signal.SIGTERM]


def test_in_a_library_call_the_second_signal_is_the_handlers_of_before():
  """A notebook gets its KeyboardInterrupt, and then has its own handler again."""
  found = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(KeyboardInterrupt), stopping.deferred() as stop:
      signal.raise_signal(signal.SIGINT)
      assert stop.asked == signal.SIGINT
      signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  finally:
    signal.signal(signal.SIGINT, found)


def test_what_is_ignored_stays_ignored():
  """As under `nohup`."""
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with stopping.deferred() as stop:
      signal.raise_signal(signal.SIGHUP)
    assert stop.asked is None
  finally:
    signal.signal(signal.SIGHUP, before)
