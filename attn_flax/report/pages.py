"""The pages that a report has for each task, by the task's name."""

import dataclasses

from attn_flax.errors import check_choice
from attn_flax.report import classification
from attn_flax.report.parts import Pages
from attn_flax.report.wording import Wording
from attn_flax.study.findings import Findings
from attn_flax.tasks.task import Task

_PAGES = {'classification': classification.PAGES}


def check(task: Task) -> None:
  """Checks that the report has pages for a task, so that a study fails before the work.

  Raises:
    UserError: for a task without pages.
  """
  check_choice('report pages', task.name, _PAGES)


def pages(findings: Findings) -> Pages:
  """The parts of the report that are specific to the study's task."""
  return _PAGES[findings.task.name]


def wording(findings: Findings) -> Wording:
  """The names of the task's scores; `beside` only has those that the study computed."""
  words = pages(findings).wording
  found = {score for v in findings.variants if v.performance for score in v.performance.further}
  beside = {score: title for score, title in words.beside.items() if score in found}
  return dataclasses.replace(words, beside=beside)
