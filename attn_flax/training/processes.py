"""One run on many processes: how they find each other, agree, and end together.

JAX has no public way to exchange a text or to wait for another process without its devices, whose
collectives give up after seconds. Both go through the client of JAX's coordination service here.
"""

import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from attn_flax.errors import UserError
from attn_flax.training import stopping
from attn_flax.training.stopping import Stop, Stopped

_Result = TypeVar('_Result')


class Shared(UserError):
  """A mistake of the user that all processes know of."""


_DEAD_SECONDS = 20  # Without a sign of life for so long, a process counts as ended.
_DAY_MS = 24 * 3600 * 1000  # Datasets may be prepared meanwhile; a process that dies ends the wait.
_numbers = itertools.count()


def join(
  coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
  """Joins the other processes of a run.

  Args:
    coordinator: '<host>:<port>' of process 0; None: as JAX finds it out from the cluster.
    num_processes: how many there are; None: likewise.
    process_id: the number of this one; None: likewise.

  Raises:
    UserError: where something is missing, or the coordinator cannot be reached.
  """
  given = {
    '--coordinator': coordinator,
    '--num_processes': num_processes,
    '--process_id': process_id,
  }
  missing = [flag for flag, value in given.items() if value is None]
  if missing and len(missing) < len(given):
    raise UserError(f'{" and ".join(missing)} is missing: give all of {", ".join(given)}, or none')
  if coordinator is not None:
    host, colon, port = coordinator.rpartition(':')
    if not (host and colon and port.isdigit()):
      raise UserError(f'--coordinator={coordinator} is impossible; give <host>:<port> of process 0')
  if num_processes is not None and process_id is not None:
    if not 0 <= process_id < num_processes:
      raise UserError(
        f'--process_id={process_id} is impossible; choose a number from 0 to {num_processes - 1}'
      )
  _filter_stderr()
  try:
    jax.distributed.initialize(
      coordinator_address=coordinator,
      num_processes=num_processes,
      process_id=process_id,
      # By default it would listen on every address of the machine.
      coordinator_bind_address=coordinator,
      heartbeat_timeout_seconds=_DEAD_SECONDS,
    )
  except (ValueError, RuntimeError) as error:
    if missing:
      raise UserError(
        '--distributed finds no cluster (SLURM, Open MPI, GKE, Cloud TPU); name it: '
        '--coordinator=<host>:<port> --num_processes=<n> --process_id=<0 to n-1>'
      ) from None
    reason = ' '.join(str(error).split())[:200]
    raise UserError(
      f'the processes did not find each other at {coordinator} ({reason}); start all of them, with '
      'the same --coordinator and --num_processes'
    ) from None
  # JAX has taken SIGTERM over, and spreads it; other signals reach it by that.
  stopping.forward(lambda: os.kill(os.getpid(), signal.SIGTERM))


@contextlib.contextmanager
def joined(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
  """Joins the other processes, see `join`, and ends so that they can end too.

  Raises:
    UserError: see `join`; and what all processes raise together.
  """
  join(coordinator, num_processes, process_id)
  try:
    yield
  except (Shared, Stopped):
    raise  # By all of them: they take leave of each other.
  except jax.errors.JaxRuntimeError as error:
    # A collective fails as soon as another process is gone. JAX's service knows which it was, and
    # ends this process when it is sure; `last_words` then names it.
    time.sleep(3 * _DEAD_SECONDS)
    _leave(f'error: another process of this run has ended ({type(error).__name__})', 1)
  except (UserError, OSError) as error:
    _leave('error: ' + ' '.join(str(error).split()), 2)
  except BaseException:
    traceback.print_exc()
    _leave('error: this process ends, and so do the others', 1)


def _leave(line: str, code: int) -> None:
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
  client, number = _client(), next(_numbers)
  client.key_value_set(f'attn_flax/{number}/{jax.process_index()}', 'x' + text)
  for process in range(jax.process_count()):
    other = client.blocking_key_value_get(f'attn_flax/{number}/{process}', _DAY_MS)[1:]
    if other:
      raise Shared(other)
  return result  # type: ignore[return-value]


def wait_for_all() -> None:
  """Waits until all processes are here, for as long as it takes."""
  if jax.process_count() > 1:
    _client().wait_at_barrier(f'attn_flax/{next(_numbers)}', _DAY_MS)


def asked_to_stop(stop: Stop, update: int) -> bool:
  """Whether the run stops after an update: all processes get the same answer.

  Of several, each may be asked by SIGTERM, as clusters do before they take a machine away.
  """
  if jax.process_count() == 1:
    return stop.asked is not None
  return bool(multihost_utils.reached_preemption_sync_point(update))


def _client():
  from jax._src import distributed

  return distributed.global_state.client


def _filter_stderr() -> None:
  """Leads stderr through a process that outlives this one, see `last_words`."""
  path = pathlib.Path(__file__).with_name('last_words.py')
  process = subprocess.Popen(
    [sys.executable, '-S', '-E', str(path)], stdin=subprocess.PIPE, start_new_session=True
  )
  assert process.stdin is not None
  os.dup2(process.stdin.fileno(), 2)
  process.stdin.close()
