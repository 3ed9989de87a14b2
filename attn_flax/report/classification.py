"""How the report speaks of classification."""

from attn_flax.report.wording import Title, Wording

WORDING = Wording(
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
  note='Calibration error: expected calibration error, 0 is best.',
)
