"""Learning curves, differences to the baseline, scores beside their controls, and confusions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure as Canvas

from attn_flax.report import formats
from attn_flax.report.figures import style
from attn_flax.report.tables.scores import CONTROLS, KINDS, find
from attn_flax.study.findings import SCORES, Findings, Run

METRICS = {'loss': 'loss', 'top1': 'top-1, %'}
# Above this number of classes a matrix has colours alone, and every n-th name.
NUMBERED_CLASSES = 12


def curves(findings: Findings) -> style.Illustration | None:
  """Loss and top-1 over the epochs, training beside validation, with bands over the seeds."""
  drawn = {v.name: [r for r in v.runs if r.curves and not r.error] for v in findings.variants}
  if not any(drawn.values()):
    return None
  canvas = Canvas(figsize=(9, 6.2), layout='constrained')
  axes = canvas.subplots(len(METRICS), 2, sharex=True, sharey='row')
  for row, (metric, title) in enumerate(METRICS.items()):
    for column, split in enumerate(('train', 'validation')):
      ax = axes[row, column]
      ax.grid(True)
      for i, (name, runs) in enumerate(drawn.items()):
        _curve(ax, runs, split, metric, name, i)
      if row == 0:
        ax.set_title('training' if split == 'train' else 'validation', fontweight='bold')
      else:
        ax.set_xlabel('epoch')
        ax.locator_params(axis='x', integer=True)
    axes[row, 0].set_ylabel(title)
  handles = {
    label: handle
    for ax in axes.flat
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
  }
  if handles:
    canvas.legend(list(handles.values()), list(handles), loc='outside lower center', ncols=4)
  return style.finish(
    canvas,
    'learning_curves',
    'Learning curves',
    'Lines are means over the seeds, bands reach from the lowest to the highest seed. Training and'
    ' validation share their scale.',
    'Loss and top-1 accuracy over the epochs, in training and validation, a line for each variant.',
  )


def band(runs: Sequence[Run], split: str, metric: str) -> tuple[np.ndarray, ...] | None:
  """Epochs, mean, lowest and highest seed of a metric; None where no run logged it."""
  logged = []
  for run in runs:
    entries = [(e, values[metric]) for e, values in run.curves.get(split, ()) if metric in values]
    if entries:
      logged.append(np.array(sorted(entries), np.float64).T)
  if not logged:
    return None
  # Runs of one variant log at the same epochs, unless one was stopped early.
  start, end = max(x[0] for x, _ in logged), min(x[-1] for x, _ in logged)
  epochs = logged[0][0]
  epochs = epochs[(epochs >= start) & (epochs <= end)]
  if not len(epochs):
    return None
  values = np.stack([np.interp(epochs, x, y) for x, y in logged])
  return epochs, values.mean(0), values.min(0), values.max(0)


def _curve(ax: Axes, runs: Sequence[Run], split: str, metric: str, name: str, index: int) -> None:
  found = band(runs, split, metric)
  if found is None:
    return
  epochs, *values = found
  mean, low, high = (100 * line if metric == 'top1' else line for line in values)
  look = style.line_style(index)
  every = max(1, len(epochs) // 6)
  ax.plot(
    epochs, mean, label=style.plain(name), markevery=(index % every, every), ms=3.5, lw=1.3, **look
  )
  ax.fill_between(epochs, low, high, color=look['color'], alpha=0.13, lw=0)


def differences(findings: Findings) -> style.Illustration | None:
  """Differences to the baseline with their intervals."""
  known = [
    (v.name, v.accuracy.difference, v.accuracy.verdict, i)
    for i, v in enumerate(findings.variants)
    if v.accuracy and v.accuracy.difference and formats.known(v.accuracy.difference)
  ]
  if not known:
    return None
  canvas = Canvas(figsize=(6.2, 1.1 + 0.36 * len(known)), layout='constrained')
  ax = canvas.subplots()
  ax.grid(True, axis='x')
  ax.axvline(0, color=style.GREY, lw=1.2)
  for y, (_, estimate, _, index) in enumerate(known):
    look = style.line_style(index)
    ax.plot([100 * estimate.low, 100 * estimate.high], [y, y], color=look['color'], lw=2)
    ax.plot(100 * estimate.mean, y, color=look['color'], marker=look['marker'], ms=7)
  ax.set_yticks(range(len(known)), [style.plain(name) for name, *_ in known])
  ax.set_ylim(len(known) - 0.4, -0.6)
  right = ax.secondary_yaxis('right')
  right.set_yticks(range(len(known)), [verdict for _, _, verdict, _ in known])
  for axis in (ax.yaxis, right.yaxis):
    axis.set_tick_params(length=0)
  for spine in (ax.spines['left'], right.spines['right']):
    spine.set_visible(False)
  ax.set_xlabel(f'top-1 less that of {style.plain(findings.baseline)}, percentage points')
  return style.finish(
    canvas,
    'differences',
    'Differences to the baseline',
    'Points are mean differences, bars their 95 % intervals, corrected for the number of variants.'
    ' Where a bar crosses the line at zero no difference is shown, which does not mean that there'
    ' is none.',
    'Difference in top-1 of each variant to the baseline: '
    + '; '.join(
      f'{name} {formats.points(e.mean)} {formats.interval(e, 2, 100)}' for name, e, _, _ in known
    ),
  )


def scores(findings: Findings) -> style.Illustration | None:
  """Every score of every map beside its controls."""
  names = [
    name for name in SCORES if any(find(v, kind, name) for v in findings.variants for kind in KINDS)
  ]
  if not names:
    return None
  columns = min(4, len(names))
  rows = -(-len(names) // columns)
  height = 0.9 + 0.3 * len(findings.variants)
  canvas = Canvas(figsize=(10, 0.7 + rows * height), layout='constrained')
  axes = canvas.subplots(rows, columns, sharey=True, squeeze=False)
  for ax in axes.flat[len(names) :]:
    ax.set_visible(False)
  controls = dict(zip(CONTROLS, ('|', 'x', '1', '+'), strict=True))
  for ax, name in zip(axes.flat, names, strict=False):
    title, higher_is_better = SCORES[name]
    ax.set_title(f'{title} {"↑" if higher_is_better else "↓"}')
    ax.grid(True, axis='x')
    for y, variant in enumerate(findings.variants):
      for kind, shift, marker, colour in (
        ('Grad-CAM', -0.16, 'o', style.COLOURS[0]),
        ('own map', 0.16, 's', style.COLOURS[1]),
      ):
        score = find(variant, kind, name)
        if score is None:
          continue
        for control, value in score.controls.items():
          if control in controls:
            ax.plot(value, y + shift, controls[control], color=style.GREY, ms=6, label=control)
        ax.plot(score.value, y + shift, marker, color=colour, ms=5.5, label=kind)
    ax.set_yticks(
      range(len(findings.variants)), [style.plain(v.name, 20) for v in findings.variants]
    )
    ax.set_ylim(len(findings.variants) - 0.5, -0.5)
    ax.tick_params(axis='y', length=0)
  handles = {
    label: handle
    for ax in axes.flat
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
  }
  order = [label for label in (*KINDS, *CONTROLS) if label in handles]
  canvas.legend([handles[k] for k in order], order, loc='outside lower center', ncols=len(order))
  return style.finish(
    canvas,
    'scores',
    'Scores beside their controls',
    'Filled marks are the maps, grey ones their controls. ↑ higher is better, ↓ lower is better.'
    ' Intervals stand in the tables below.',
    'Explanation scores of each variant beside four controls; the numbers are in the tables below.',
  )


def confusions(findings: Findings) -> list[style.Illustration]:
  """A confusion matrix per variant, all on one scale."""
  return [
    _confusion(findings, variant.name, variant.accuracy.confusion, i)
    for i, variant in enumerate(findings.variants)
    if variant.accuracy is not None
  ]


def _confusion(findings: Findings, name: str, counts: np.ndarray, index: int) -> style.Illustration:
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  size = len(shares)
  canvas = Canvas(figsize=(3.2, 2.95), layout='constrained')
  ax = canvas.subplots()
  # The square root, so that a few percent of mistakes are seen beside a diagonal near 1.
  image = ax.imshow(shares, cmap=style.MAP, norm=PowerNorm(0.5, 0, 1))
  every = max(1, -(-size // 20))
  names = [style.plain(label, 12) for label in findings.class_names]
  ticks = np.arange(0, size, every)
  slanted = max(map(len, names), default=0) > 2
  ax.set_xticks(ticks, [names[k] for k in ticks], rotation=90 if slanted else 0, fontsize=8)
  ax.set_yticks(ticks, [names[k] for k in ticks], fontsize=8)
  ax.tick_params(length=0)
  if size <= NUMBERED_CLASSES:
    for (row, column), share in np.ndenumerate(shares):
      if counts[row, column]:
        text = formats.percent(share, 0) if share >= 0.01 else '<1'
        colour = 'black' if share > 0.3 else 'white'
        ax.text(column, row, text, ha='center', va='center', fontsize=6.5, color=colour)
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
    f'Confusion matrix of {name}: {formats.percent(float(accuracy))} % lie on the diagonal.',
  )
