"""What the processes of one run do together: agree, wait for each other, and stop at one update.

JAX has no public way to exchange a text or to wait for another process without its devices, whose
collectives give up after seconds. Both go through the client of JAX's coordination service here.
How processes come together is in `joining`. In a run of one process each function answers at once.
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
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from attn_flax.errors import UserError
from attn_flax.training.shared_stop import SharedStop
from attn_flax.training.stopping import Stop

_Result = TypeVar('_Result')


class Shared(UserError):
  """A mistake of the user that all processes know of."""


DAY_MS = 24 * 3600 * 1000  # Datasets may be prepared meanwhile; a process that dies ends the wait.
_SEEN_SECONDS = 20  # After which a shared file system shows a new file everywhere.
_COLLECTIVE = re.compile('Gloo|NCCL|AllGather|AllReduce|coordination service', re.IGNORECASE)
_numbers = itertools.count()
_shared_stop: SharedStop | None = None


@contextlib.contextmanager
def stopping_together(stop: SharedStop | None) -> Iterator[None]:
  """Has `asked_to_stop` ask what the processes agree on; None: they have no way to agree."""
  global _shared_stop
  _shared_stop = stop
  try:
    yield
  finally:
    _shared_stop = None
    if stop is not None:
      stop.close()


def is_lost(error: BaseException) -> bool:
  """Whether an error, or one behind it, is that of a collective whose other processes are gone.

  JAX raises some as `ValueError`, with nothing but their text to tell them by.
  """
  while error.__cause__ is not None:
    error = error.__cause__
  if jax.process_count() == 1:
    return False
  is_named = isinstance(error, ValueError) and _COLLECTIVE.search(str(error)) is not None
  return isinstance(error, jax.errors.JaxRuntimeError) or is_named


def raise_lost(error: BaseException) -> None:
  """Raises an error that `is_lost`, which `joining.joined` answers, and no other."""
  if is_lost(error):
    raise error


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
  service, number = client(), next(_numbers)
  service.key_value_set(f'attn_flax/{number}/{jax.process_index()}', 'x' + text)
  return [
    service.blocking_key_value_get(f'attn_flax/{number}/{process}', DAY_MS)[1:]
    for process in range(jax.process_count())
  ]


def as_first(function: Callable[[], bool]) -> bool:
  """What a question about files is answered by the first process: file systems may lag.

  Raises:
    UserError: see `together`.
  """
  answer = together(function)
  return answer if jax.process_count() == 1 else _exchange('yes' * answer)[0] == 'yes'


def check_same(what: str, value: object) -> None:
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
    client().wait_at_barrier(f'attn_flax/{next(_numbers)}', DAY_MS)


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


def client() -> Any:
  """That of JAX's coordination service."""
  from jax._src import distributed

  return distributed.global_state.client
