"""Learning curves, differences to the baseline, and scores beside their controls."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from attn_flax.report import formats
from attn_flax.report.figures import style
from attn_flax.report.pages import wording
from attn_flax.report.tables.scores import CONTROLS, KINDS, find
from attn_flax.report.wording import score_heading
from attn_flax.study.explanations import SCORES, Kind
from attn_flax.study.findings import Findings, Run

# Width in inches of a figure on a phone of 390 CSS pixels.
NARROW = 3.4


def for_phones(
  draw: Callable[[Findings, bool], style.Illustration | None], findings: Findings
) -> style.Illustration | None:
  """Draws an illustration twice: for wide windows, and as its `narrow` form for phones.

  Args:
    draw: (findings, is_narrow) -> the illustration, or None where there is nothing to draw.
    findings: what it shows.

  Returns:
    The illustration; None where there is nothing to draw.
  """
  made = draw(findings, False)
  return made and dataclasses.replace(made, narrow=draw(findings, True))


def curves(findings: Findings) -> style.Illustration | None:
  """Loss and best score over the epochs, in training and validation; None without logged runs."""
  return for_phones(_curves, findings)


def _curves(findings: Findings, is_narrow: bool) -> style.Illustration | None:
  drawn = {v.name: [r for r in v.runs if r.curves and not r.error] for v in findings.variants}
  if not any(drawn.values()):
    return None
  words = wording(findings)
  metrics = (('loss', 'loss', 1), (findings.task.best, words.best.heading, words.best.scale))
  # On a phone the four plots are stacked.
  canvas = Canvas(figsize=(NARROW, 9) if is_narrow else (9, 6.2), layout='constrained')
  if is_narrow:
    axes = canvas.subplots(2 * len(metrics), 1, sharex=True).reshape(len(metrics), 2)
    for train, validation in axes:
      validation.sharey(train)
  else:
    axes = canvas.subplots(len(metrics), 2, sharex=True, sharey='row')
  for row, (metric, title, unit) in enumerate(metrics):
    for column, split in enumerate(('train', 'validation')):
      ax = axes[row, column]
      ax.grid(True)
      for i, (name, runs) in enumerate(drawn.items()):
        _curve(ax, band(runs, split, metric), unit, name, i)
      if row == 0 or is_narrow:
        ax.set_title('training' if split == 'train' else 'validation', fontweight='bold')
      if ax.get_subplotspec().is_last_row():
        ax.set_xlabel('epoch')
        ax.locator_params(axis='x', integer=True)
      if column == 0 or is_narrow:
        ax.set_ylabel(title)
  handles = {
    label: handle
    for ax in axes.flat
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
  }
  if handles:
    canvas.legend(
      list(handles.values()),
      list(handles),
      loc='outside lower center',
      ncols=style.legend_columns(list(handles), canvas.get_figwidth()),
    )
  return style.finish(
    canvas,
    'learning_curves',
    'Learning curves',
    'Lines are means over the seeds; bands reach from the lowest to the highest seed. Values in'
    ' training are means since the previous validation. Training and validation share one vertical'
    ' scale.',
    f'Loss and {words.best_in_full} over the epochs, in training and validation, a line for each'
    ' variant.',
  )


def band(runs: Sequence[Run], split: str, metric: str) -> tuple[np.ndarray, ...] | None:
  """A metric over the range of epochs that all runs logged.

  Args:
    runs: the runs of a variant.
    split: 'train' or 'validation'.
    metric: a name in `Run.curves`.

  Returns:
    Epochs, and the mean, lowest and highest value over the runs, [E] each; None where no run logged
    the metric, or the runs have no epoch in common.
  """
  logged = []
  for run in runs:
    entries = [(e, values[metric]) for e, values in run.curves.get(split, ()) if metric in values]
    if entries:
      logged.append(np.array(sorted(entries), np.float64).T)
  if not logged:
    return None
  # Runs of one variant log at the same epochs, unless one of them was stopped early.
  start, end = max(x[0] for x, _ in logged), min(x[-1] for x, _ in logged)
  epochs = logged[0][0]
  epochs = epochs[(epochs >= start) & (epochs <= end)]
  if not len(epochs):
    return None
  values = np.stack([np.interp(epochs, x, y) for x, y in logged])
  return epochs, values.mean(0), values.min(0), values.max(0)


def _curve(
  ax: Axes, found: tuple[np.ndarray, ...] | None, unit: float, name: str, index: int
) -> None:
  """Draws the result of `band`, with its values multiplied by `unit`."""
  if found is None:
    return
  epochs, mean, low, high = found[0], *(unit * line for line in found[1:])
  look = style.line_style(index)
  every = max(1, len(epochs) // 6)
  ax.plot(
    epochs, mean, label=style.plain(name), markevery=(index % every, every), ms=3.5, lw=1.3, **look
  )
  ax.fill_between(epochs, low, high, color=look['color'], alpha=0.13, lw=0)


def differences(findings: Findings) -> style.Illustration | None:
  """Differences to the baseline with their 95 % intervals; None where no interval is known."""
  return for_phones(_differences, findings)


def _differences(findings: Findings, is_narrow: bool) -> style.Illustration | None:
  known = [
    (v.name, v.performance.difference, v.performance.verdict, i)
    for i, v in enumerate(findings.variants)
    if v.performance and v.performance.difference and formats.known(v.performance.difference)
  ]
  if not known:
    return None
  best = wording(findings).best
  width, row = (NARROW, 0.45) if is_narrow else (6.2, 0.36)
  canvas = Canvas(figsize=(width, 1.1 + row * len(known)), layout='constrained')
  ax = canvas.subplots()
  ax.grid(True, axis='x')
  ax.axvline(0, color=style.GRAY, lw=1.2)
  for y, (_, estimate, _, index) in enumerate(known):
    look = style.line_style(index)
    ends = [best.scale * estimate.low, best.scale * estimate.high]
    ax.plot(ends, [y, y], color=look['color'], lw=2)
    ax.plot(best.scale * estimate.mean, y, color=look['color'], marker=look['marker'], ms=7)
  # The verdict is printed below the name.
  ax.set_yticks(
    range(len(known)), [f'{style.plain(name, 20)}\n{verdict}' for name, _, verdict, _ in known]
  )
  ax.set_ylim(len(known) - 0.4, -0.6)
  ax.yaxis.set_tick_params(length=0)
  ax.spines['left'].set_visible(False)
  label = [f'{best.name} minus that of {style.plain(findings.baseline, 20)}']
  if best.is_share:
    label = [f'{label[0]},', 'percentage points']
  ax.set_xlabel(('\n' if is_narrow else ' ').join(label))
  return style.finish(
    canvas,
    'differences',
    'Differences to the baseline',
    'Points are mean differences; bars are their 95 % intervals, corrected for the number of'
    ' variants. Where a bar crosses the line at zero, no difference is shown, which does not mean'
    ' that there is none.',
    f'Difference in {best.name} of each variant to the baseline: '
    + '; '.join(f'{name} {best.change(e.mean)} {best.interval(e)}' for name, e, _, _ in known),
  )


def scores(findings: Findings) -> style.Illustration | None:
  """Every score of every map and its controls, a plot for each score; None without scores."""
  return for_phones(_scores, findings)


def _scores(findings: Findings, is_narrow: bool) -> style.Illustration | None:
  names = [
    name for name in SCORES if any(find(v, kind, name) for v in findings.variants for kind in KINDS)
  ]
  if not names:
    return None
  columns = min(1 if is_narrow else 4, len(names))
  rows = -(-len(names) // columns)
  height = 0.9 + 0.3 * len(findings.variants)
  canvas = Canvas(figsize=(NARROW if is_narrow else 10, 0.7 + rows * height), layout='constrained')
  axes = canvas.subplots(rows, columns, sharey=True, squeeze=False)
  for ax in axes.flat[len(names) :]:
    ax.set_visible(False)
  controls = dict(zip(CONTROLS, ('|', 'x', '1', '+'), strict=True))
  for ax, name in zip(axes.flat, names, strict=False):
    ax.set_title(score_heading(name))
    ax.grid(True, axis='x')
    for y, variant in enumerate(findings.variants):
      for kind, shift, marker, color in (
        (Kind.GRAD_CAM, -0.16, 'o', style.COLORS[0]),
        (Kind.OWN_MAP, 0.16, 's', style.COLORS[1]),
      ):
        score = find(variant, kind, name)
        if score is None:
          continue
        for control, value in score.controls.items():
          if control in controls:
            ax.plot(value, y + shift, controls[control], color=style.GRAY, ms=6, label=control)
        ax.plot(score.value, y + shift, marker, color=color, ms=5.5, label=kind)
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
  canvas.legend(
    [handles[k] for k in order],
    order,
    loc='outside lower center',
    ncols=style.legend_columns(order, canvas.get_figwidth()),
  )
  return style.finish(
    canvas,
    'scores',
    'Scores beside their controls',
    'Colored marks are the maps, gray marks their controls. ↑ higher is better, ↓ lower is better.'
    ' Intervals are in the tables below.',
    'Explanation scores of each variant beside four controls; the numbers are in the tables below.',
  )
