"""One run on many processes: how they find each other, agree, and end together.

JAX has no public way to exchange a text or to wait for another process without its devices, whose
collectives give up after seconds. Both go through the client of JAX's coordination service here.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
from jax.experimental import multihost_utils

from attn_flax.errors import UserError, check_range
from attn_flax.training import rendezvous, stopping
from attn_flax.training.shared_stop import SharedStop
from attn_flax.training.stopping import Stop, Stopped

_Result = TypeVar('_Result')


class Shared(UserError):
  """A mistake of the user that all processes know of."""


_DEAD_SECONDS = 20  # Without a sign of life for so long, a process counts as ended.
_DAY_MS = 24 * 3600 * 1000  # Datasets may be prepared meanwhile; a process that dies ends the wait.
_TELL_SECONDS = 10  # For a process that does not come, to let the others know.
_SEEN_SECONDS = 20  # After which a shared file system shows a new file everywhere.
_numbers = itertools.count()
_shared_stop: SharedStop | None = None


class Place(NamedTuple):
  """The place of a process in its run, as the command line gives it; None: not given.

  Attributes:
    coordinator: '<host>:<port>' of process 0.
    num_processes: how many there are.
    process_id: the number of this one.
    join_seconds: how long each waits for the others to come.
  """

  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
  join_seconds: float = 60

  def check(self) -> None:
    """Raises `UserError` where something is missing or impossible."""
    given = {f'--{name}': getattr(self, name) for name in self._fields[:3]}
    missing = [flag for flag, value in given.items() if value is None]
    if missing and len(missing) < len(given):
      raise UserError(
        f'{" and ".join(missing)} is missing: give all of {", ".join(given)}, or none'
      )
    check_range('--join_seconds', self.join_seconds, 1, _DAY_MS / 1000)
    if self.coordinator is None or self.num_processes is None or self.process_id is None:
      return
    host, _, port = self.coordinator.rpartition(':')
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
      raise UserError(
        f'--coordinator={self.coordinator} is impossible; give <host>:<port> of process 0'
      )
    check_range('--num_processes', self.num_processes, 1, whole=True)
    check_range('--process_id', self.process_id, 0, self.num_processes - 1, whole=True)


def join(place: Place, about: Mapping[str, Any]) -> None:
  """Joins the other processes of a run.

  Args:
    place: where this one is among them; where it says nothing, JAX finds it out from the cluster.
    about: what the run is told to do, JSON values by name: all processes must be told the same.

  Raises:
    UserError: where something is missing, not all processes come, or they are told differently.
  """
  place.check()
  coordinator, count, process, local_devices = _find_out(place)
  is_given = place.coordinator is not None
  meeting: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
  if count > 1:
    meeting = rendezvous.met(
      coordinator,
      process,
      count,
      {'num_processes': count, **about},
      seconds=place.join_seconds,
      bind=is_given,
      end=lambda text: _leave(f'error: {text}', 1),
    )
  with meeting:
    _filter_outputs()
    jax.config.update('jax_enable_preemption_service', False)  # It takes SIGTERM over.
    try:
      jax.distributed.initialize(
        coordinator_address=coordinator,
        num_processes=count,
        process_id=process,
        local_device_ids=local_devices,
        # By default it would listen on every address of the machine.
        coordinator_bind_address=coordinator if is_given else None,
        initialization_timeout=int(place.join_seconds),
        heartbeat_timeout_seconds=_DEAD_SECONDS,
      )
    except (ValueError, RuntimeError) as error:
      reason = ' '.join(str(error).split())[:200]
      raise UserError(
        f'the processes did not find each other at {coordinator} ({reason}); start all of them, '
        'with the same --coordinator and --num_processes'
      ) from None


def tell(place: Place, error: str) -> None:
  """Lets the other processes of a run know that this one does not come, and why."""
  with contextlib.suppress(UserError):
    place.check()
    if place.coordinator is None or place.num_processes is None or place.process_id is None:
      return
    with rendezvous.met(
      place.coordinator,
      place.process_id,
      place.num_processes,
      {},
      seconds=_TELL_SECONDS,
      error=error,
    ):
      pass


def _find_out(place: Place) -> tuple[str, int, int, Sequence[int] | None]:
  """Address of the coordinator, number of processes, number of this one, and its devices."""
  if place.coordinator and place.num_processes is not None and place.process_id is not None:
    return place.coordinator, place.num_processes, place.process_id, None
  from jax._src import clusters

  try:
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
      os.environ.get('JAX_COORDINATOR_ADDRESS'), None, None, None, None, int(place.join_seconds)
    )
  except (ValueError, RuntimeError):
    found = (None, None, None, None)
  coordinator, count, process, local_devices = found
  if coordinator is None or count is None or process is None:
    raise UserError(
      '--distributed finds no cluster (SLURM, Open MPI, GKE, Cloud TPU); name it: '
      '--coordinator=<host>:<port> --num_processes=<n> --process_id=<0 to n-1>'
    )
  return coordinator, count, process, local_devices


@contextlib.contextmanager
def joined(place: Place, about: Mapping[str, Any]) -> Iterator[None]:
  """Joins the other processes, see `join`, and ends so that they can end too.

  Raises:
    UserError: see `join`; and what all processes raise together.
  """
  global _shared_stop
  join(place, about)
  stop = stopping.watching()
  if stop is not None and jax.process_count() > 1:
    _shared_stop = SharedStop(_client(), jax.process_index(), jax.process_count(), stop, _leave)
  try:
    yield
  except (Shared, Stopped):
    raise  # By all of them: they take leave of each other.
  except jax.errors.JaxRuntimeError as error:
    # A collective fails as soon as another process is gone. JAX's service knows which it was, and
    # ends this process when it is sure; `last_words` then names it.
    time.sleep(3 * _DEAD_SECONDS)
    reason = ' '.join(str(error).split())[:200]
    _leave(f'error: this process cannot go on, as when another one has ended ({reason})', 1)
  except (UserError, OSError) as error:
    _leave_all('error: ' + ' '.join(str(error).split()), 2)
  except BaseException as error:
    traceback.print_exc()
    name = f'process {jax.process_index()}'
    _leave_all(f'error: {name} has failed ({type(error).__name__}), and so ends the run', 1)
  finally:
    if _shared_stop is not None:
      _shared_stop.close()
      _shared_stop = None


def _leave_all(line: str, code: int) -> NoReturn:
  """Ends all processes with a line."""
  if _shared_stop is not None:
    _shared_stop.fail(line, code)
  _leave(line, code)


def raise_lost(error: BaseException) -> None:
  """Raises the error of a collective that is behind another error: see `joined` for its answer."""
  while error.__cause__ is not None:
    error = error.__cause__
  if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
    raise error


def _leave(line: str, code: int) -> NoReturn:
  """Ends this process without waiting for the others, who may be waiting for it."""
  print(line, file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(code)


def is_first() -> bool:
  """Whether this process writes the files and the log."""
  return jax.process_index() == 0


def together(function: Callable[[], _Result]) -> _Result:
  """Calls a function on each process, and goes on once all have succeeded.

  Raises:
    UserError: on all of them, where it was raised on one.
  """
  if jax.process_count() == 1:
    return function()
  text, result = '', None
  try:
    result = function()
  except UserError as error:
    text = str(error)
  if other := next(filter(None, _exchange(text)), None):
    raise Shared(other)
  return result  # type: ignore[return-value]


def _exchange(text: str) -> list[str]:
  """The texts of all processes, by their numbers."""
  client, number = _client(), next(_numbers)
  client.key_value_set(f'attn_flax/{number}/{jax.process_index()}', 'x' + text)
  return [
    client.blocking_key_value_get(f'attn_flax/{number}/{process}', _DAY_MS)[1:]
    for process in range(jax.process_count())
  ]


def as_first(function: Callable[[], bool]) -> bool:
  """What a question about files is answered by the first process: file systems may lag.

  Raises:
    UserError: see `together`.
  """
  answer = together(function)
  return answer if jax.process_count() == 1 else _exchange('yes' * answer)[0] == 'yes'


def check_same(what: str, value: Any) -> None:
  """Raises `UserError` on all processes where a JSON value is not the same on all of them."""
  if jax.process_count() == 1:
    return
  texts = _exchange(json.dumps(value, sort_keys=True, default=str))
  for process, text in enumerate(texts):
    if text != texts[0]:
      raise Shared(f'process {process} finds {what} other than process 0; give all the same')


def check_sees(path: pathlib.Path) -> None:
  """Checks that all processes see a file that the first one has, with the same content.

  Raises:
    UserError: on all of them, where one does not.
  """
  if jax.process_count() == 1:
    return
  expected, end = (
    _exchange(_digest(path) if is_first() else '')[0],
    time.monotonic() + _SEEN_SECONDS,
  )

  def check() -> None:
    while _digest(path) != expected:
      if time.monotonic() > end:
        raise UserError(
          f'process {jax.process_index()} does not see the {path} of process 0; put --workdir on a '
          'file system that all processes share, and give its full path'
        )
      time.sleep(0.5)

  together(check)


def _digest(path: pathlib.Path) -> str:
  with contextlib.suppress(OSError):
    os.listdir(path.parent)  # Has network file systems look anew.
    return hashlib.sha256(path.read_bytes()).hexdigest()
  return ''


def wait_for_all() -> None:
  """Waits until all processes are here, for as long as it takes."""
  if jax.process_count() > 1:
    _client().wait_at_barrier(f'attn_flax/{next(_numbers)}', _DAY_MS)


def asked_to_stop(stop: Stop, update: int) -> bool:
  """Whether the run stops after an update: all processes get the same answer.

  Of several, each may be asked, as clusters do by SIGTERM before they take a machine away.
  """
  if jax.process_count() == 1:
    return stop.asked is not None
  if _shared_stop is None:  # Joined by other means.
    return bool(multihost_utils.reached_preemption_sync_point(update))
  return _shared_stop.reached(update)


def any_asked_to_stop(stop: Stop) -> bool:
  """Whether a process was asked to stop behind the last update: the same answer for all."""
  if jax.process_count() == 1:
    return stop.asked is not None
  if not any(_exchange('asked' * (stop.asked is not None))):
    return False
  if _shared_stop is not None:
    _shared_stop.answer()
  return True


def _client():
  from jax._src import distributed

  return distributed.global_state.client


def _filter_outputs() -> None:
  """Leads what C++ prints through a process that outlives this one, see `last_words`.

  So goes all of stderr, and of stdout what does not come from Python.
  """
  path = pathlib.Path(__file__).with_name('last_words.py')
  process = subprocess.Popen(
    [sys.executable, '-S', '-E', str(path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    start_new_session=True,
  )
  assert process.stdin is not None
  os.dup2(process.stdin.fileno(), 2)
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.flush()
    sys.stdout = open(
      os.dup(1),
      'w',
      buffering=1 if sys.stdout.line_buffering else -1,
      encoding=sys.stdout.encoding,
      errors=sys.stdout.errors,
    )
    os.dup2(process.stdin.fileno(), 1)
  process.stdin.close()
