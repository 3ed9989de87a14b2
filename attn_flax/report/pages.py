"""The tasks that the report knows, by `Task.pages`."""

import dataclasses

from attn_flax.errors import check_choice
from attn_flax.report import classification
from attn_flax.report.parts import Pages
from attn_flax.report.wording import Wording
from attn_flax.study.findings import Findings
from attn_flax.tasks.task import Task

_PAGES = {'classification': classification.PAGES}


def check(task: Task) -> None:
  """Raises `UserError` for a task that no page of a report shows, before it is trained."""
  check_choice('report pages', task.pages, _PAGES)


def pages(findings: Findings) -> Pages:
  """What the report has of its own for the study's task."""
  return _PAGES[findings.task.pages]


def wording(findings: Findings) -> Wording:
  """How the report speaks of the study's task; of the scores beside the best those that it has."""
  words = pages(findings).wording
  found = {score for v in findings.variants if v.performance for score in v.performance.further}
  beside = {score: title for score, title in words.beside.items() if score in found}
  return dataclasses.replace(words, beside=beside)
