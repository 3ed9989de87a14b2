"""The parts of the report that are specific to classification."""

from attn_flax.report.figures import classification as figures
from attn_flax.report.parts import Pages, Section, fold, gallery
from attn_flax.report.tables import classification as tables
from attn_flax.report.wording import Title, Wording
from attn_flax.study.findings import Findings

_WORDING = Wording(
  quality='accuracy',
  best=Title('top-1', ('top1_mean', 'top1_spread')),
  best_in_full='top-1 accuracy',
  beside={'top5': Title('top-5', ('top5_mean', 'top5_spread'))},
  further={
    'calibration_error': Title(
      'calibration error',
      ('calibration_error', 'calibration_spread'),
      is_share=False,
      digits=4,
    )
  },
  achieves='classifies {value} % of {images} test images correctly',
  note='Calibration error: expected calibration error (ECE); 0 is best.',
)


def _published(findings: Findings) -> list[Section]:
  table = tables.published_accuracies(findings)
  part = fold('Results that papers report for the same mechanisms', table)
  return [Section('published-section', 'Published accuracies', parts=[part] if part else [])]


PAGES = Pages(
  wording=_WORDING,
  scores=lambda findings: [
    tables.per_class(findings),
    fold('Confusion matrices', gallery(figures.confusions(findings))),
  ],
  further=_published,
)
