"""The figures that are specific to classification: confusion matrices."""

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure as Canvas

from attn_flax.report import formats
from attn_flax.report.figures import style
from attn_flax.report.figures.fonts import lettering
from attn_flax.study.findings import Findings

# With more classes than this, a matrix shows colors without numbers.
NUMBERED_CLASSES = 12


def confusions(findings: Findings) -> list[style.Illustration]:
  """A confusion matrix per variant, all on one scale; none with thousands of classes."""
  return [
    _confusion(findings, variant.name, variant.performance.arrays['confusion'].sum(0), i)
    for i, variant in enumerate(findings.variants)
    if variant.performance is not None and 'confusion' in variant.performance.arrays
  ]


def _confusion(findings: Findings, name: str, counts: np.ndarray, index: int) -> style.Illustration:
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  size = len(shares)
  canvas = Canvas(figsize=(3.2, 2.95), layout='constrained')
  ax = canvas.subplots()
  # The color goes with the square root: a few percent of errors show beside a diagonal near 1.
  image = ax.imshow(shares, cmap=style.MAP, norm=PowerNorm(0.5, 0, 1))
  every = max(1, -(-size // 20))
  drawn = lettering(findings.class_names).named(findings.class_names)
  names = [style.plain(label, 12) for label in drawn]
  ticks = np.arange(0, size, every)
  slanted = max(map(len, names), default=0) > 2
  ax.set_xticks(ticks, [names[k] for k in ticks], rotation=90 if slanted else 0, fontsize=8)
  ax.set_yticks(ticks, [names[k] for k in ticks], fontsize=8)
  ax.tick_params(length=0)
  if size <= NUMBERED_CLASSES:
    for (row, column), share in np.ndenumerate(shares):
      if counts[row, column]:
        text = formats.percent(share, 0) if share >= 0.01 else '<1'
        color = 'black' if share > 0.3 else 'white'
        ax.text(column, row, text, ha='center', va='center', fontsize=6.5, color=color)
  ax.set_xlabel('predicted')
  ax.set_ylabel('label')
  ax.set_title(style.plain(name), fontweight='bold')
  bar = canvas.colorbar(image, ax=ax, shrink=0.8, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1])
  bar.ax.set_yticklabels(['0', '1', '10', '25', '50', '100 %'])
  accuracy = np.trace(counts) / max(counts.sum(), 1)
  return style.finish(
    canvas,
    style.file_name('confusion', index, name),
    f'Confusion matrix of {name}',
    '',
    f'Confusion matrix of {name}: {formats.percent(float(accuracy))} % of the images are on the'
    ' diagonal.',
    scaled=True,
  )
