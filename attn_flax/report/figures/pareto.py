"""Accuracy against what it costs: who is not beaten on both."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.transforms import Bbox

from attn_flax.report import formats
from attn_flax.report.figures import style
from attn_flax.study.findings import Cost, Findings

# (name of the file, heading, unit on the axis, divisor).
COSTS = (
  ('params', 'parameters', 'parameters, 10⁶', 1e6),
  ('macs', 'multiply-adds', 'multiply-adds per image, 10⁶', 1e6),
  ('step_ms', 'training step', 'training step, ms', 1),
)


def front(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
  """Indices, by rising cost, of the points that no other beats: cheaper or alike and not worse."""
  found: list[int] = []
  for i in sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i])):
    if not found or gains[i] > gains[found[-1]]:
      found.append(i)
  return found


def plots(findings: Findings) -> list[style.Illustration]:
  """A plot for each kind of cost; none where nothing was measured."""
  known = [
    (i, v.name, v.accuracy, v.cost)
    for i, v in enumerate(findings.variants)
    if v.accuracy is not None and v.cost is not None
  ]
  if not known:
    return []
  base = next((cost for _, name, _, cost in known if name == findings.baseline), None)
  top1 = [100 * accuracy.top1 for _, _, accuracy, _ in known]
  spread = [100 * (accuracy.top1_spread or 0) for _, _, accuracy, _ in known]
  made = []
  for name, title, label, divisor in COSTS:
    values, low, high = np.array([_values(cost, name, base) for *_, cost in known]).T / divisor
    canvas = Canvas(figsize=(3.2, 3), layout='constrained')
    ax = canvas.subplots()
    ax.grid(True)
    best = front(values, top1)
    ax.step(values[best], [top1[i] for i in best], where='post', color=style.GREY, lw=1.2, ls='--')
    bars: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for i, k in itertools.pairwise(best):
      corner = (values[k], top1[i])
      bars += [((values[i], top1[i]), corner), (corner, (values[k], top1[k]))]
    for i, (index, *_) in enumerate(known):
      look = style.line_style(index)
      x, y = values[i], top1[i]
      bars += [((low[i], y), (high[i], y)), ((x, y - spread[i]), (x, y + spread[i]))]
      ax.errorbar(
        x,
        y,
        yerr=spread[i],
        xerr=[[x - low[i]], [high[i] - x]],
        color=look['color'],
        marker=look['marker'],
        mfc=look['color'] if i in best else 'white',
        ms=6,
        elinewidth=1,
        capsize=2.5,
      )
    ax.margins(0.18, 0.16)
    ax.locator_params(axis='x', nbins=5)
    ax.set_xlabel(label)
    ax.set_ylabel('top-1, %')
    texts = [(style.plain(name, 14), style.line_style(i)['color']) for i, name, *_ in known]
    _label(canvas, ax, values, top1, texts, bars)
    names = formats.listing([known[i][1] for i in best])
    made.append(
      style.finish(
        canvas,
        f'pareto_{name}',
        f'Accuracy and {title}',
        'Filled marks, joined by the dashed line, are the front: no variant is both cheaper and'
        ' more accurate. Upright bars: standard deviation between seeds'
        + ('; level bars: quartiles.' if name == 'step_ms' else '.'),
        f'Top-1 accuracy against {title}. On the front: {names}.',
      )
    )
  return made


def _values(cost: Cost, name: str, base: Cost | None) -> tuple[float, float, float]:
  """A cost with its bounds: for times the quartiles of the ratio, in units of the baseline."""
  value = getattr(cost, name)
  if not isinstance(value, int | float):
    unit = base.step_ms.median if base else value.median / value.ratio
    middle = value.median
    return middle, min(middle, value.low * unit), max(middle, value.high * unit)
  return value, value, value


def _label(
  canvas: Canvas,
  ax: Axes,
  x: Sequence[float],
  y: Sequence[float],
  texts: Sequence[tuple[str, str]],
  bars: Sequence[tuple[tuple[float, float], tuple[float, float]]],
) -> None:
  """Puts each name near its point, with a line in the point's colour.

  Where there is room it covers no other name, point, error bar or edge, and no point is nearer.
  """
  canvas.draw_without_rendering()
  places = ax.transData.transform(np.column_stack([x, y]))
  unit = canvas.dpi / 72
  taken = [
    Bbox.from_bounds(px - 5 * unit, py - 5 * unit, 10 * unit, 10 * unit) for px, py in places
  ]
  lines = [Bbox(ax.transData.transform(list(ends))).padded(2 * unit) for ends in bars]
  inside = ax.get_window_extent()
  for i in np.argsort(places[:, 0]):
    best: tuple[float, Bbox, tuple[float, float], float] | None = None
    name, colour = texts[i]
    text = ax.annotate(
      name,
      (x[i], y[i]),
      (0, 0),
      textcoords='offset points',
      va='center',
      ha='center',
      fontsize=7.5,
    )
    text.set_in_layout(False)  # The axes stay where the labels are placed for.
    extent = text.get_window_extent()
    width, height = extent.width / unit, extent.height / unit
    for distance in (7, 12, 20, 30, 42):
      for turn in (0, 180, 45, 135, 225, 315, 90, 270, 20, 160, 200, 340):
        dx, dy = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        shift = (dx * (distance + width / 2), dy * (distance + height / 2))
        box = extent.translated(shift[0] * unit, shift[1] * unit).padded(1.5 * unit)
        clashes = sum(_overlap(box, other) for j, other in enumerate(taken) if j != i)
        clashes += sum(_overlap(box, line) for line in lines)
        clashes += box.width * box.height - _overlap(box, inside)
        middle = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
        away = np.linalg.norm(places - middle, axis=1)
        # As bad as standing farthest away: a reader would take it for another point's name.
        strange = 42 * bool(np.any(np.delete(away, i) < 1.25 * away[i]))
        penalty = clashes * 100 + distance + strange
        if best is None or penalty < best[0]:
          best = (penalty, box, shift, distance)
    assert best is not None  # There are always candidates.
    text.set_position(best[2])
    if best[3] > 7:
      ax.annotate(
        '',
        (x[i], y[i]),
        best[2],
        textcoords='offset points',
        arrowprops={'arrowstyle': '-', 'color': colour, 'lw': 0.7, 'shrinkB': 7, 'shrinkA': 5},
      )
    taken.append(best[1])


def _overlap(one: Bbox, other: Bbox) -> float:
  """Area that two boxes share."""
  width = min(one.x1, other.x1) - max(one.x0, other.x0)
  height = min(one.y1, other.y1) - max(one.y0, other.y0)
  return max(width, 0) * max(height, 0)
