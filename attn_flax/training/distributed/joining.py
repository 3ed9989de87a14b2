"""Joins the processes of one run, and ends all of them where one fails."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

import jax

from attn_flax.errors import UserError, check_range
from attn_flax.training import stopping
from attn_flax.training.distributed import processes, rendezvous
from attn_flax.training.distributed.shared_stop import SharedStop
from attn_flax.training.stopping import Stopped

_DEAD_SECONDS = 20  # A process without heartbeats for so long counts as ended.
_TELL_SECONDS = 10  # How long a process that cannot join tries to tell the others why.


class Place(NamedTuple):
  """The place of a process in its run, as given on the command line; None: not given.

  Attributes:
    coordinator: '<host>:<port>' of process 0.
    num_processes: number of processes of the run.
    process_id: number of this process, from 0.
    join_seconds: how long each process waits for the others.
  """

  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
  join_seconds: float = 60

  def check(self) -> None:
    """Checks the flags.

    Raises:
      UserError: where only some of them are given, or one is impossible.
    """
    given = {f'--{name}': getattr(self, name) for name in self._fields[:3]}
    missing = [flag for flag, value in given.items() if value is None]
    if missing and len(missing) < len(given):
      verb = 'is' if len(missing) == 1 else 'are'
      raise UserError(
        f'{" and ".join(missing)} {verb} missing: give all of {", ".join(given)}, or none'
      )
    check_range('--join_seconds', self.join_seconds, 1, processes.DAY_MS / 1000)
    if self.coordinator is None or self.num_processes is None or self.process_id is None:
      return
    host, _, port = self.coordinator.rpartition(':')
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
      raise UserError(
        f'--coordinator={self.coordinator} is impossible; give <host>:<port> of process 0'
      )
    check_range('--num_processes', self.num_processes, 1, whole=True)
    check_range('--process_id', self.process_id, 0, self.num_processes - 1, whole=True)


@contextlib.contextmanager
def joined(place: Place, about: Mapping[str, object]) -> Iterator[None]:
  """Joins the other processes for the time of the body.

  Where the body fails in one process, all of them end, after a `UserError` or an `OSError` with
  exit code 2, else with 1.

  Args:
    place: see `join`.
    about: see `join`.

  Raises:
    UserError: see `join`; and what all processes raise together.
    Stopped: as the body raises it, in all processes.
  """
  join(place, about)
  stop, shared = stopping.watching(), None
  if stop is not None and jax.process_count() > 1:
    index, count = jax.process_index(), jax.process_count()
    shared = SharedStop(processes.client(), index, count, stop, _leave)

  def leave_all(line: str, code: int) -> NoReturn:
    if shared is not None:
      shared.fail(line, code)
    _leave(line, code)

  with processes.stopping_together(shared):
    try:
      yield
    except (processes.Shared, Stopped):
      raise  # All processes raise these together, and shut down in order.
    except (UserError, OSError) as error:
      leave_all('error: ' + ' '.join(str(error).split()), 2)
    except BaseException as error:
      if processes.is_lost(error):
        # A collective fails as soon as another process is gone. JAX's coordination service finds
        # out which one, and then aborts this process; `last_words` turns its log into one line.
        time.sleep(3 * _DEAD_SECONDS)
        reason = ' '.join(str(error).split())[:200]
        _leave(
          f'error: this process cannot go on, probably because another one has ended ({reason}); '
          'start all of them again to go on from the last checkpoint',
          1,
        )
      traceback.print_exc()
      name = f'process {jax.process_index()}'
      leave_all(f'error: {name} has failed ({type(error).__name__}), which ends the run', 1)


def join(place: Place, about: Mapping[str, object]) -> None:
  """Joins the other processes of a run.

  Args:
    place: the place of this process; without flags, JAX detects it from the cluster.
    about: flags and config of the run, JSON values by name, which must agree in all processes.

  Raises:
    UserError: where flags are missing, not all processes come in time, or they do not agree.
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
    jax.config.update('jax_enable_preemption_service', False)  # It would handle SIGTERM itself.
    try:
      jax.distributed.initialize(
        coordinator_address=coordinator,
        num_processes=count,
        process_id=process,
        local_device_ids=local_devices,
        # By default, JAX would listen on every address of the machine.
        coordinator_bind_address=coordinator if is_given else None,
        initialization_timeout=int(place.join_seconds),
        heartbeat_timeout_seconds=_DEAD_SECONDS,
      )
    except (ValueError, RuntimeError) as error:
      reason = ' '.join(str(error).split())[:200]
      raise UserError(
        f'the processes did not find each other at {coordinator} ({reason}); {rendezvous.START}'
      ) from None


def tell(place: Place, error: str) -> None:
  """Tells the other processes of a run that this one does not join, and why.

  Args:
    place: the place of this process.
    error: the message that they end with.
  """
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
  """Address of the coordinator, number of processes, number of this process, and its devices."""
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


def _leave(line: str, code: int) -> NoReturn:
  """Ends this process without waiting for the others, which may be waiting for it."""
  print(line, file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(code)


def _filter_outputs() -> None:
  """Redirects what C++ prints to a process that outlives this one, see `last_words`.

  These are all of stderr, and what is written to stdout other than by Python.
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
