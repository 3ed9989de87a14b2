"""The tasks by name."""

from collections.abc import Callable

from attn_flax.errors import check_choice
from attn_flax.tasks import classification
from attn_flax.tasks.task import Setting, Task

# Functions that make the tasks from what a config says about the loss; None: the default loss.
TASKS: dict[str, Callable[[Setting | None], Task]] = {'classification': classification.make}
# The task of older runs, whose config names none, and of weights without a config.
FIRST = 'classification'


def find_task(name: str, setting: Setting | None = None) -> Task:
  """A task by its name.

  Args:
    name: one of `TASKS`.
    setting: the config and dataset that its loss depends on; None: the default loss.

  Raises:
    UserError: an unknown name.
  """
  check_choice('task', name, TASKS)
  return TASKS[name](setting)
