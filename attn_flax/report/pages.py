"""The tasks that the report knows, by `Task.pages`."""

from attn_flax.errors import check_choice
from attn_flax.report import classification
from attn_flax.report.wording import Wording
from attn_flax.study.findings import Findings
from attn_flax.tasks.task import Task

_WORDINGS = {'classification': classification.WORDING}


def check(task: Task) -> None:
  """Raises `UserError` for a task that no page of a report shows, before it is trained."""
  check_choice('report pages', task.pages, _WORDINGS)


def wording(findings: Findings) -> Wording:
  """How the report speaks of the study's task."""
  return _WORDINGS[findings.task.pages]
