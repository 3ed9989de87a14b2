"""How the processes of a run connect: which are missing, and where flags differ."""

import concurrent.futures
import contextlib
import socket
import threading
import time

import pytest

from attn_flax import UserError
from attn_flax.training.distributed import rendezvous


@pytest.fixture
def address():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{probe.getsockname()[1]}'


def meet(address, visitors, count=3, seconds=1.0):
  """The error of each process, '' for none; a visitor is (number, about, error)."""

  def one(visitor):
    process, about, error = visitor
    try:
      with rendezvous.met(address, process, count, about, seconds=seconds, error=error):
        return ''
    except UserError as raised:
      return str(raised)

  with concurrent.futures.ThreadPoolExecutor(len(visitors)) as pool:
    return list(pool.map(one, visitors))


SAME = {'--mode': 'train', 'config.model.depths': (1, 2)}


def test_all_go_on_once_all_are_there(address):
  assert meet(address, [(i, SAME, '') for i in range(3)]) == ['', '', '']
  assert meet(address, [(i, SAME, '') for i in (2, 0, 1)]) == [
    '',
    '',
    '',
  ]  # Its port is free again.


@pytest.mark.parametrize(
  ('came', 'text'), [((0, 2), 'process 1 did not'), ((0,), 'processes 1, 2 did not')]
)
def test_those_who_do_not_come_are_named_to_all(came, text, address):
  errors = meet(address, [(i, SAME, '') for i in came])
  assert len(set(errors)) == 1
  assert errors[0].startswith(f'{text} come to {address} within 1 s; start all of them')


def test_without_process_0_each_names_it(address):
  errors = meet(address, [(i, SAME, '') for i in (1, 2)])
  assert all(e.startswith(f'process 0 did not come to {address} within 1 s') for e in errors)


def test_what_differs_is_named_to_all(address):
  other = SAME | {'config.seed': 3, '--mode': 'evaluate'}
  errors = meet(address, [(0, SAME, ''), (1, SAME, ''), (2, other, '')])
  assert set(errors) == {
    "the processes of a run differ (--mode: 'train' in process 0, 'evaluate' in process 2; "
    'config.seed: None in process 0, 3 in process 2); start all of them together, '
    'with the same command but for --process_id'
  }


@pytest.mark.parametrize('mistaken', range(3))
def test_a_mistake_of_one_is_told_to_all(mistaken, address):
  visitors = [(i, SAME if i != mistaken else {}, 'a typo' * (i == mistaken)) for i in range(3)]
  assert meet(address, visitors) == ['a typo'] * 3


def test_two_of_one_number_are_told_so(address):
  errors = meet(address, [(i, SAME, '') for i in (0, 1, 1)])
  assert set(errors) == {'two processes have --process_id=1; give each its own'}


def test_strangers_and_processes_that_leave_are_passed_over(address):
  """One client sends no JSON, one sends nothing, and a process disconnects and returns."""
  host, port = address.split(':')

  def connect():
    end = time.monotonic() + 5
    while time.monotonic() < end:
      with contextlib.suppress(OSError):
        return socket.create_connection((host, int(port)))
      time.sleep(0.01)
    raise AssertionError('nobody listens')

  def disturb():
    for line in (b'GET / HTTP/1.1\n', b'', b'3\n', b'{"process": 1, "about": {}'):
      with connect() as connection:
        connection.sendall(line)
    with connect() as connection:
      connection.sendall(b'{"process": 1, "about": {}, "error": ""}\n')
      time.sleep(0.2)
    errors.extend(meet(address, [(1, {}, ''), (2, {}, '')], seconds=10))

  errors = []
  thread = threading.Thread(target=disturb)
  thread.start()
  assert meet(address, [(0, {}, '')], seconds=10) == ['']
  thread.join()
  assert errors == ['', '']


@pytest.mark.parametrize('lost', range(3))
def test_who_ends_before_all_are_connected_is_named(lost, address):
  """Its connections close without the message that ends the meeting."""
  ended, barrier, known = {}, threading.Barrier(3), threading.Event()

  def one(process):
    def end(text):
      ended[process] = text
      if len(ended) == 2:
        known.set()

    class Lost(Exception):
      pass

    with contextlib.suppress(Lost):
      with rendezvous.met(address, process, 3, SAME, seconds=5, end=end):
        barrier.wait(5)
        if process == lost:
          raise Lost
        known.wait(5)

  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    list(pool.map(one, range(3)))
  assert ended.keys() == set(range(3)) - {lost}
  assert all(text.startswith(f'process {lost} of this run has ended') for text in ended.values())


def test_an_address_of_another_machine_or_a_taken_port_is_one_line(address):
  assert 'cannot listen at 192.0.2.1:80' in meet('192.0.2.1:80', [(0, {}, '')])[0]
  host, port = address.split(':')
  with socket.create_server((host, int(port))):
    (error,) = meet(address, [(0, {}, '')])
  assert f'cannot listen at {address} (Address already in use)' in error
