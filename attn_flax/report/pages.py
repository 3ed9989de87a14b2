"""The tasks that the report knows, by `Task.pages`."""

from attn_flax.report import classification
from attn_flax.report.wording import Wording
from attn_flax.study.findings import Findings

_WORDINGS = {'classification': classification.WORDING}


def wording(findings: Findings) -> Wording:
  """How the report speaks of the study's task."""
  return _WORDINGS[findings.task.pages]
