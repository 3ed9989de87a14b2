"""Connects the processes of a run before JAX does, to say which ones are missing or differ.

JAX itself would wait for minutes and abort with a stack trace that names no process. Here each
process sends one line of JSON to process 0, at the coordinator's address: its number, its flags and
config, and an error if it found one in them. Process 0 answers all of them at once: to continue, or
with the error that ends them. The connections stay open until JAX has made its own, so that a
process that ends before then is noticed.
"""

import contextlib
import errno
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from attn_flax.errors import UserError, shown
from attn_flax.training.artifacts import Json

_MOST_BYTES = 2**20  # The longest line.
_READ_SECONDS = 5  # How long to wait for the line of a process that has connected.
_PAUSE = 0.2  # Between two attempts to reach process 0.
_AFTER_ERROR_SECONDS = 10  # After an error, others may still connect for so long to receive it.
_MOST_SHOWN = 6  # Differences in an error message.
START = 'start all of them together, with the same command but for --process_id'


# {number of another process: connection to it}.
_Others = dict[int, socket.socket]


@contextlib.contextmanager
def met(
  address: str,
  process: int,
  count: int,
  about: Mapping[str, object],
  *,
  seconds: float,
  error: str = '',
  bind: bool = True,
  end: Callable[[str], object] = lambda line: None,
) -> Iterator[None]:
  """Waits until all processes of a run have connected, and checks that their flags agree.

  Args:
    address: '<host>:<port>' of process 0.
    process: the number of this process.
    count: number of processes.
    about: flags and config of this process, JSON values by name, which must agree in all.
    seconds: how long to wait for the others.
    error: an error of this process, which ends all of them; '' for none.
    bind: whether process 0 listens at that address alone; else at all addresses of its machine.
    end: ends this process with an error message; called where another process ends before it has
      left the context.

  Raises:
    UserError: with the same text in all processes, for such an error, a process that did not
      connect in time, two processes with one number, or processes whose flags differ.
  """
  about = json.loads(json.dumps(about, default=str))
  if process:
    text, others = _visit(address, {'process': process, 'about': about, 'error': error}, seconds)
  else:
    text, others = _host(address, count, about, seconds, error, bind)
  closed = threading.Event()
  thread = threading.Thread(target=_watch, args=(others, end, closed), daemon=True)
  try:
    if text:
      raise UserError(text)
    thread.start()
    yield
    for connection in others.values():
      with contextlib.suppress(OSError):
        _send(connection, {'error': ''})
    thread.join(_AFTER_ERROR_SECONDS)
  finally:
    closed.set()
    for connection in others.values():
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # Wakes the thread.
    if thread.is_alive():
      thread.join(_READ_SECONDS)
    for connection in others.values():
      connection.close()


def _watch(others: _Others, end: Callable[[str], object], closed: threading.Event) -> None:
  """Waits until the other processes have left the context; ends this one if one of them ends."""
  left = dict(others)
  while left:
    ready, _, _ = select.select(list(left.values()), [], [])
    for process, connection in list(left.items()):
      if connection not in ready:
        continue
      try:
        text = str(_receive(connection, _READ_SECONDS)['error'])
      except (OSError, ValueError, KeyError, TypeError):
        text = f'process {process} of this run has ended, and so does this one; {START}'
      if closed.is_set():
        return
      del left[process]
      if text:
        for other in left.values():
          with contextlib.suppress(OSError):
            _send(other, {'error': text})
        end(text)


def _split(address: str) -> tuple[str, int]:
  host, _, port = address.rpartition(':')
  return host.strip('[]'), int(port)


def _host(
  address: str, count: int, about: Mapping[str, object], seconds: float, text: str, bind: bool
) -> tuple[str, _Others]:
  """Process 0: waits for the others and answers them; returns the error, '' for none."""
  came: _Others = {}
  end = time.monotonic() + seconds
  with contextlib.ExitStack() as stack:
    listener = stack.enter_context(_listen(address, end, bind))
    while len(came) < count - 1:
      if text:
        end = min(end, time.monotonic() + _AFTER_ERROR_SECONDS)
      ready, _, _ = select.select(
        [listener, *came.values()], [], [], max(end - time.monotonic(), 0)
      )
      if not ready:
        text = text or _missing(set(range(1, count)) - came.keys(), address, seconds)
        break
      for process, connection in list(came.items()):
        if connection in ready:  # It was closed; that process may connect again.
          came.pop(process).close()
      if listener not in ready:
        continue
      connection = listener.accept()[0]
      try:
        visitor = _receive(connection, _READ_SECONDS)
        process = int(visitor['process'])
        problem = str(visitor['error']) or _difference(about, visitor['about'], process)
      except (OSError, ValueError, KeyError, TypeError):  # No process of a run.
        connection.close()
        continue
      if process in came:
        problem = problem or f'two processes have --process_id={process}; give each its own'
        process = -len(came)  # Both get the answer.
      came[process] = connection
      text = text or problem
    for connection in came.values():
      with contextlib.suppress(OSError):
        _send(connection, {'error': text})
  return text, came


def _listen(address: str, end: float, bind: bool) -> socket.socket:
  host, port = _split(address)
  while True:
    try:
      if not bind:
        return socket.create_server(('', port))
      family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
      return socket.create_server((host, port), family=family)
    except OSError as error:
      # An address in use may belong to a run that is just ending, and become free.
      if error.errno != errno.EADDRINUSE or time.monotonic() > end:
        reason = str(error.strerror).partition(' (while')[0]  # Python appends the address.
        raise UserError(
          f'process 0 cannot listen at {address} ({reason}); choose an address of its '
          'machine and a free port for --coordinator'
        ) from None
    time.sleep(_PAUSE)


def _visit(address: str, content: Mapping[str, object], seconds: float) -> tuple[str, _Others]:
  """Any other process: connects to process 0; returns its answer, an error or ''."""
  end = time.monotonic() + seconds
  while True:
    connection = None
    try:
      connection = socket.create_connection(_split(address), timeout=_READ_SECONDS)
      _send(connection, content)
      # Process 0 may have started to wait only now.
      answer = _receive(connection, seconds + 2 * _AFTER_ERROR_SECONDS)
      return str(answer['error']), {0: connection}
    except (OSError, ValueError, KeyError, TypeError) as error:
      reason = (error.strerror if isinstance(error, OSError) else None) or 'no answer'
      if connection is not None:
        connection.close()
    if time.monotonic() > end:
      break
    time.sleep(_PAUSE)
  return f'process 0 did not come to {address} within {seconds:g} s ({reason}); {START}', {}


def _send(connection: socket.socket, content: Mapping[str, object]) -> None:
  connection.sendall(json.dumps(content).encode() + b'\n')


def _receive(connection: socket.socket, seconds: float) -> Json:
  """The next line, a JSON object; what follows it stays unread."""
  connection.settimeout(seconds)
  with connection.makefile('rb', buffering=0) as file:
    content = json.loads(file.readline(_MOST_BYTES))
  if not isinstance(content, dict):
    raise ValueError('not a JSON object')
  return content


def _missing(processes: set[int], address: str, seconds: float) -> str:
  numbers = ', '.join(map(str, sorted(processes)))
  name = 'processes' if len(processes) > 1 else 'process'
  return f'{name} {numbers} did not come to {address} within {seconds:g} s; {START}'


def _difference(first: Mapping[str, object], other: Mapping[str, object], process: int) -> str:
  """The error for flags of another process that differ from those of process 0; '' for none."""
  pairs = [
    f'{name}: {shown(first.get(name))} in process 0, {shown(other.get(name))} in process {process}'
    for name in sorted(first.keys() | other.keys())
    if first.get(name) != other.get(name)
  ]
  if not pairs:
    return ''
  more = f'; and {len(pairs) - _MOST_SHOWN} more' if len(pairs) > _MOST_SHOWN else ''
  return f'the processes of a run differ ({"; ".join(pairs[:_MOST_SHOWN])}{more}); {START}'
