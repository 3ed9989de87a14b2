"""The tasks by name."""

from collections.abc import Callable

from attn_flax.errors import check_choice
from attn_flax.tasks.classification import classification
from attn_flax.tasks.task import Options, Task

TASKS: dict[str, Callable[[Options], Task]] = {'classification': classification}


def find_task(name: str, options: Options | None = None) -> Task:
  """A task by its name.

  Raises:
    UserError: for an unknown name.
  """
  check_choice('task', name, TASKS)
  return TASKS[name](options or Options())
