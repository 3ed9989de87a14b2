"""Plots of the best score against cost, with the Pareto front."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from attn_flax.report import formats
from attn_flax.report.figures import style
from attn_flax.report.pages import wording
from attn_flax.study.findings import Cost, Findings

_COLUMNS = 3  # Of the legend.


class _Bounded(NamedTuple):
  """A cost and the ends of its error bar."""

  value: float
  low: float
  high: float


class _Axis(NamedTuple):
  """A kind of cost: its column in `results.csv`, name, axis label, and how to compute it."""

  column: str
  name: str
  label: str
  read: Callable[[Cost, Cost | None], _Bounded]


class _Point(NamedTuple):
  """A variant in the plot; `spread` is the standard deviation of its score, 0 if unknown."""

  look: style.Look
  name: str
  score: float
  spread: float
  cost: _Bounded


def _exact(value: float) -> _Bounded:
  return _Bounded(value, value, value)


def _step(cost: Cost, base: Cost | None) -> _Bounded:
  """The time of a training step in ms; its error bar spans the quartiles of its ratio."""
  step = cost.step_ms
  unit = base.step_ms.median if base else step.median / step.ratio
  return _Bounded(
    step.median, min(step.median, step.low * unit), max(step.median, step.high * unit)
  )


_AXES = (
  _Axis('params', 'parameters', 'parameters, 10⁶', lambda cost, _: _exact(cost.params / 1e6)),
  _Axis(
    'macs', 'multiply-adds', 'multiply-adds per image, 10⁶', lambda cost, _: _exact(cost.macs / 1e6)
  ),
  _Axis('step_ms', 'training step', 'training step, ms', _step),
)


def front(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
  """The Pareto front: points to which no other is at least equal in both cost and gain.

  Args:
    costs: of each point; lower is better.
    gains: of each point; higher is better.

  Returns:
    Indices of the points on the front, by rising cost; of equal points, the first.
  """
  found: list[int] = []
  for i in sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i])):
    if not found or gains[i] > gains[found[-1]]:
      found.append(i)
  return found


def plots(findings: Findings) -> list[style.Illustration]:
  """A plot for each kind of cost; [] where no variant has both a score and a cost."""
  if not any(variant.performance and variant.cost for variant in findings.variants):
    return []
  return [_plot(findings, axis) for axis in _AXES]


def _plot(findings: Findings, axis: _Axis) -> style.Illustration:
  words = wording(findings)
  points = _points(findings, axis, words.best.scale)
  sign = 1 if findings.task.higher_is_better else -1
  best = front([point.cost.value for point in points], [sign * point.score for point in points])
  rows = -(-len(points) // _COLUMNS)
  canvas = Canvas(figsize=(3.2, 2.8 + 0.17 * rows), layout='constrained')
  ax = canvas.subplots()
  ax.grid(True)
  _join(ax, [points[i] for i in best])
  handles = [_mark(ax, point, filled=i in best) for i, point in enumerate(points)]
  ax.margins(0.1, 0.1)
  ax.locator_params(axis='x', nbins=5)
  ax.set_xlabel(axis.label)
  ax.set_ylabel(words.best.heading)
  _legend(canvas, handles)
  full = words.best_in_full
  return style.finish(
    canvas,
    f'pareto_{axis.column}',
    f'{words.quality.capitalize()} and {axis.name}',
    'Filled marks, joined by the dashed line, are the Pareto front: no other variant is both'
    ' cheaper and better. Vertical bars: standard deviation between seeds'
    + ('; horizontal bars: quartiles.' if axis.column == 'step_ms' else '.'),
    f'{full[0].upper()}{full[1:]} against {axis.name}. On the Pareto front:'
    f' {formats.listing([points[i].name for i in best])}.',
  )


def _points(findings: Findings, axis: _Axis, scale: float) -> list[_Point]:
  """The variants that have both a score and a cost; scores are multiplied by `scale`."""
  known = [
    (style.line_style(i), v.name, v.performance.best, v.cost)
    for i, v in enumerate(findings.variants)
    if v.performance is not None and v.cost is not None
  ]
  base = next((cost for _, name, _, cost in known if name == findings.baseline), None)
  return [
    _Point(look, name, scale * value, scale * (spread or 0), axis.read(cost, base))
    for look, name, (value, spread), cost in known
  ]


def _join(ax: Axes, best: Sequence[_Point]) -> None:
  """Draws the dashed line of the Pareto front."""
  ax.step(
    [point.cost.value for point in best],
    [point.score for point in best],
    where='post',
    color=style.GRAY,
    lw=1.2,
    ls='--',
  )


def _mark(ax: Axes, point: _Point, *, filled: bool) -> Line2D:
  """Draws a variant with its error bars; returns its entry of the legend."""
  value, low, high = point.cost
  color, marker = point.look['color'], point.look['marker']
  fill = color if filled else 'white'
  ax.errorbar(
    value,
    point.score,
    yerr=point.spread,
    xerr=[[value - low], [high - value]],
    color=color,
    marker=marker,
    mfc=fill,
    ms=6,
    elinewidth=1,
    capsize=2.5,
  )
  label = style.plain(point.name, 14)
  return Line2D([], [], ls='', color=color, marker=marker, mfc=fill, ms=6, label=label)


def _legend(canvas: Canvas, handles: Sequence[Line2D]) -> None:
  canvas.legend(
    handles=handles,
    loc='outside lower center',
    ncols=min(_COLUMNS, len(handles)),
    fontsize=7.5,
    handletextpad=0.2,
    columnspacing=1,
  )
