"""The common stop of several processes, simulated by threads that share a dictionary."""

import random
import signal
import threading

import pytest

from attn_flax.training.distributed.shared_stop import SharedStop
from attn_flax.training.stopping import Stop

COUNT = 3


class Service:
  """A fake client of the coordination service."""

  def __init__(self):
    self.content = {}

  def key_value_set(self, key, value):
    assert key not in self.content
    self.content[key] = value

  def key_value_dir_get(self, folder):
    return [(key, value) for key, value in list(self.content.items()) if key.startswith(folder)]


class Left(SystemExit):
  """Raised where a process would end."""


@pytest.fixture
def run(monkeypatch):
  """Processes, each a (stop, shared stop), and the signals or exit codes that they ended with."""
  service, left = Service(), {}
  monkeypatch.setattr('attn_flax.training.distributed.shared_stop._LINGER', 0.1)
  processes = []

  def leaver(process):
    def leave(number):
      left[process] = number
      raise Left

    return leave

  def ender(process):
    def end(line, code):
      left[process] = line, code
      raise Left

    return end

  for process in range(COUNT):
    stop = Stop(leaver(process))
    processes.append((stop, SharedStop(service, process, COUNT, stop, ender(process))))
  yield processes, left
  for _, shared in processes:
    shared.close()


@pytest.mark.parametrize('seed', range(4))
def test_all_stop_at_the_same_update(seed, run):
  """As with collectives, no process begins an update before all have begun the one before it."""
  processes, left = run
  rng = random.Random(seed)
  stopped, barrier = {}, threading.Barrier(COUNT)
  asked, at = rng.randrange(COUNT), rng.randrange(1, 5)

  def train(process):
    stop, shared = processes[process]
    with stop.deferred():
      for update in range(1, 10**6):
        barrier.wait(10)
        if process == asked and update == at:
          stop.hear(signal.SIGUSR1)
        if shared.reached(update):
          stopped[process] = update, stop.answer('').number
          return

  threads = [threading.Thread(target=train, args=(process,)) for process in range(COUNT)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(20)
  assert len(stopped) == COUNT and len(set(stopped.values())) == 1
  update, number = stopped[0]
  assert update >= at and number == signal.SIGUSR1
  assert left == {}


# Here, ending a process ends a thread alone, by an exception.
leaves = pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')


@leaves
def test_where_nothing_is_unsaved_all_leave(run):
  """One process is not in its training loop yet, so that none has made an update."""
  processes, left = run
  with processes[0][0].deferred(), processes[1][0].deferred():
    processes[1][0].hear(signal.SIGTERM)
    for _, shared in processes:
      shared._thread.join(10)
  assert left == dict.fromkeys(range(COUNT), signal.SIGTERM)


@leaves
def test_the_second_signal_has_all_leave(run):
  processes, left = run
  for stop, _ in processes:
    stop.is_deferring = True
  stop = processes[2][0]
  stop.hear(signal.SIGINT)
  with pytest.raises(Left):
    stop.hear(signal.SIGINT)
  for _, shared in processes[:2]:
    shared._thread.join(10)
  assert left == dict.fromkeys(range(COUNT), signal.SIGINT)


@leaves
def test_the_failure_of_one_ends_the_others_with_its_line(run):
  processes, left = run
  processes[1][1].fail('error: the disk is full', 2)
  for process in (0, 2):
    processes[process][1]._thread.join(10)
  assert left == dict.fromkeys((0, 2), ('error: the disk is full', 2))


def test_the_first_signal_of_each_is_no_second_one(run):
  """As under a launcher that passes Ctrl-C on to all processes."""
  processes, left = run
  for stop, _ in processes:
    stop.is_deferring = True
    stop.hear(signal.SIGINT)
  assert [stop.asked for stop, _ in processes] == [signal.SIGINT] * COUNT
  assert left == {}
