"""How the processes of one run agree, wait for each other, and stop after the same update.

JAX has no public function to exchange texts between processes, or to wait for another process
without collectives on the devices, which time out after seconds. Here both use the client of JAX's
coordination service. `joining` starts that service. In a run of one process, each function returns
at once.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from attn_flax.errors import UserError
from attn_flax.training.distributed.shared_stop import CoordinationClient, SharedStop
from attn_flax.training.stopping import Stop

_Result = TypeVar('_Result')


class Shared(UserError):
  """A mistake of the user that is raised in all processes."""


# The longest wait: one process may prepare a dataset. A process that dies ends the wait.
DAY_MS = 24 * 3600 * 1000
_SEEN_SECONDS = 20  # A shared file system shows a new file to all processes within this time.
_COLLECTIVE = re.compile('Gloo|NCCL|AllGather|AllReduce|coordination service', re.IGNORECASE)
_numbers = itertools.count()
_shared_stop: SharedStop | None = None


@contextlib.contextmanager
def stopping_together(stop: SharedStop | None) -> Iterator[None]:
  """Makes `asked_to_stop` use a `SharedStop` in the body; None: it uses JAX's own service."""
  global _shared_stop
  _shared_stop = stop
  try:
    yield
  finally:
    _shared_stop = None
    if stop is not None:
      stop.close()


def is_lost(error: BaseException) -> bool:
  """Whether an error, or its cause, comes from a collective whose other processes are gone.

  JAX raises some of these as `ValueError`, which only their text tells apart.
  """
  while error.__cause__ is not None:
    error = error.__cause__
  if jax.process_count() == 1:
    return False
  is_named = isinstance(error, ValueError) and _COLLECTIVE.search(str(error)) is not None
  return isinstance(error, jax.errors.JaxRuntimeError) or is_named


def raise_lost(error: BaseException) -> None:
  """Raises an error if `is_lost` holds for it, so that `joining.joined` handles it."""
  if is_lost(error):
    raise error


def is_first() -> bool:
  """Whether this is process 0, which writes the files and the log."""
  return jax.process_index() == 0


def together(function: Callable[[], _Result]) -> _Result:
  """Calls a function in each process, and waits until it has succeeded in all of them.

  Returns:
    What the function returns in this process.

  Raises:
    UserError: in all processes, where the function raised it in one; in a run of several processes
      it is a `Shared`.
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
  """The texts of all processes, in the order of their numbers."""
  service, number = client(), next(_numbers)
  service.key_value_set(f'attn_flax/{number}/{jax.process_index()}', 'x' + text)
  return [
    service.blocking_key_value_get(f'attn_flax/{number}/{process}', DAY_MS)[1:]
    for process in range(jax.process_count())
  ]


def as_first(function: Callable[[], bool]) -> bool:
  """The answer of process 0 to a question about files: other processes may see them later.

  Raises:
    UserError: see `together`.
  """
  answer = together(function)
  return answer if jax.process_count() == 1 else _exchange('yes' * answer)[0] == 'yes'


def check_same(what: str, value: object) -> None:
  """Checks that a JSON value is the same in all processes.

  Args:
    what: what the value describes, for the error message.
    value: the value of this process.

  Raises:
    UserError: in all processes, where it differs.
  """
  if jax.process_count() == 1:
    return
  texts = _exchange(json.dumps(value, sort_keys=True, default=str))
  for process, text in enumerate(texts):
    if text != texts[0]:
      raise Shared(
        f'{what} of process {process} differs from that of process 0; give all processes the same'
      )


def check_sees(path: pathlib.Path) -> None:
  """Checks that all processes see a file of process 0 with the same content.

  Raises:
    UserError: in all processes, where one does not see it.
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
          'file system that all processes share, and give its absolute path'
        )
      time.sleep(0.5)

  together(check)


def _digest(path: pathlib.Path) -> str:
  with contextlib.suppress(OSError):
    os.listdir(path.parent)  # Makes network file systems refresh what they cache.
    return hashlib.sha256(path.read_bytes()).hexdigest()
  return ''


def wait_for_all() -> None:
  """Waits until all processes have called this function, for up to a day."""
  if jax.process_count() > 1:
    client().wait_at_barrier(f'attn_flax/{next(_numbers)}', DAY_MS)


def asked_to_stop(stop: Stop, update: int) -> bool:
  """Whether the run stops after an update; the same answer in all processes.

  A signal to any of the processes stops the run, as clusters send SIGTERM before they reclaim a
  machine.

  Args:
    stop: notes the signals of this process.
    update: number of the update.
  """
  if jax.process_count() == 1:
    return stop.asked is not None
  if _shared_stop is None:  # The processes were not joined by `joining`.
    return bool(multihost_utils.reached_preemption_sync_point(update))
  return _shared_stop.reached(update)


def any_asked_to_stop(stop: Stop) -> bool:
  """Whether any process was asked to stop after the last update; the same answer in all."""
  if jax.process_count() == 1:
    return stop.asked is not None
  if not any(_exchange('asked' * (stop.asked is not None))):
    return False
  if _shared_stop is not None:
    _shared_stop.answer()
  return True


def client() -> CoordinationClient:
  """The client of JAX's coordination service."""
  from jax._src import distributed

  found = distributed.global_state.client
  assert found is not None  # There are several processes, so JAX has joined them.
  return found
