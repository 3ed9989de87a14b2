"""The tasks by name."""

from collections.abc import Callable

from attn_flax.errors import check_choice
from attn_flax.tasks import classification
from attn_flax.tasks.task import Setting, Task

# Each makes its task; of what a config says about the loss, None is nothing.
TASKS: dict[str, Callable[[Setting | None], Task]] = {'classification': classification.make}
# Of runs made before there was a choice, and of weights without a config.
FIRST = 'classification'


def find_task(name: str, setting: Setting | None = None) -> Task:
  """A task by its name.

  Args:
    name: one of `TASKS`.
    setting: what its loss takes from a config; None: the loss as it is without one.

  Raises:
    UserError: for an unknown name.
  """
  check_choice('task', name, TASKS)
  return TASKS[name](setting)
