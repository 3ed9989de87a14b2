"""Grids of images under what the networks look at: Grad-CAM, spatial gates and attention.

A colour means the same number in every picture that shares a colour bar. Nothing is stretched to
its own range, so that a faint map looks faint.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from attn_flax.report import style
from attn_flax.report.findings import Findings, Pictured, Variant

MOST_IMAGES = 8
MOST_GATED = 4
MOST_PATHS = 5
OVERLAY = 0.6
RIGHT, WRONG = '✓', '✗'


def scale(maps: Iterable[np.ndarray], *, from_zero: bool = False) -> tuple[float, float]:
  """The one range of values, lowest and highest, that all of some maps are coloured by."""
  values = [float(bound) for found in maps for bound in (np.min(found), np.max(found))]
  finite = [value for value in values if np.isfinite(value)] or [0.0]
  low, high = min(finite), max(finite)
  low = min(low, 0.0) if from_zero else low
  return (low, high) if high > low else (low, low + 1)


def is_empty(cam: np.ndarray) -> bool:
  """Whether a map says nothing: no gradient reached it, or none was positive."""
  return not np.any(cam) or not np.all(np.isfinite(cam))


def cams(findings: Findings) -> style.Illustration | None:
  """The same images under the Grad-CAM of every variant; a scale for each image."""
  shown = [(v.name, v.pictured) for v in findings.variants if v.pictured is not None]
  count = min(len(findings.images), MOST_IMAGES)
  if not shown or not count:
    return None
  canvas = Canvas(figsize=(1.25 * (len(shown) + 1) + 0.9, 1.48 * count + 0.3), layout='constrained')
  axes = canvas.subplots(count, len(shown) + 1, squeeze=False)
  for row in range(count):
    bounds = scale((pictured.cams[row] for _, pictured in shown), from_zero=True)
    bare(axes[row, 0], findings.images[row], _mask(findings, row), coloured=True)
    axes[row, 0].set_xlabel(f'label: {_class(findings, findings.labels[row])}')
    for ax, (name, pictured) in zip(axes[row, 1:], shown, strict=True):
      bare(ax, findings.images[row], _mask(findings, row))
      drawn = overlay(ax, pictured.cams[row], findings.images.shape[1:3], bounds)
      _answer(ax, findings, pictured, row)
      if row == 0:
        ax.set_title(style.plain(name, 18), fontweight='bold')
    bar = canvas.colorbar(drawn, ax=axes[row, :], pad=0.01, aspect=14, format='%.3g')
    bar.ax.locator_params(nbins=4)
  axes[0, 0].set_title('image')
  outline = ' The outline is the mask of the object.' if findings.masks is not None else ''
  return style.finish(
    canvas,
    'grad_cam',
    'Grad-CAM',
    f'Grad-CAM of the label over the same images. Each row has one scale for all variants.{outline}'
    f' Below: prediction and confidence; {WRONG} and a thick frame mark a wrong one. “empty” is a'
    ' map that is zero everywhere.',
    f'{count} images, each beside its Grad-CAM in {len(shown)} variants.',
  )


def _mask(findings: Findings, row: int) -> np.ndarray | None:
  return None if findings.masks is None else findings.masks[row]


def _class(findings: Findings, label: int) -> str:
  return style.plain(findings.class_names[int(label)], 12)


def bare(
  ax: Axes, image: np.ndarray, mask: np.ndarray | None = None, *, coloured: bool = False
) -> None:
  """An image without ticks, in grey where colours are to lie over it, with its mask's outline."""
  if coloured:
    ax.imshow(image)
  else:
    ax.imshow(image.mean(-1), cmap='gray', vmin=0, vmax=255)
  ax.set_xticks([])
  ax.set_yticks([])
  for spine in ax.spines.values():
    spine.set_visible(False)
  if mask is not None and 0 < mask.mean() < 1:
    for colour, width in (('black', 2.2), ('white', 1.1)):
      ax.contour(mask.astype(float), [0.5], colors=[colour], linewidths=[width])


def overlay(ax: Axes, values: np.ndarray, size: Sequence[int], bounds: tuple[float, float]) -> Any:
  """Colours an image of `size` (height, width) by a map; returns what a colour bar is drawn from.

  A map that says nothing leaves the image bare, with the word on it.
  """
  height, width = size
  empty = is_empty(values)
  drawn = ax.imshow(
    np.zeros_like(values) if empty else values,
    cmap=style.MAP,
    vmin=bounds[0],
    vmax=bounds[1],
    extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    interpolation='bilinear',
    alpha=OVERLAY,
    visible=not empty,
  )
  if empty:
    box = {'facecolor': 'white', 'edgecolor': 'black', 'pad': 2}
    ax.text(0.5, 0.5, 'empty', transform=ax.transAxes, ha='center', va='center', bbox=box)
  return drawn


def _answer(ax: Axes, findings: Findings, pictured: Pictured, row: int) -> None:
  right = int(pictured.predicted[row]) == int(findings.labels[row])
  sign = RIGHT if right else WRONG
  name = _class(findings, pictured.predicted[row])
  ax.set_xlabel(
    f'{sign} {name} · {pictured.confidence[row]:.2f}', fontweight='normal' if right else 'bold'
  )
  if not right:
    for spine in ax.spines.values():
      spine.set(visible=True, edgecolor=style.COLOURS[1], linewidth=2.5)


def gates(findings: Findings) -> list[style.Illustration]:
  """What each mechanism attends with in space, and from the query position."""
  made = []
  for index, variant in enumerate(findings.variants):
    if variant.pictured is None:
      continue
    for kind, paths in _by_kind(variant.pictured.gates.spatial).items():
      others = [_by_kind(v.pictured.gates.spatial) for v in findings.variants if v.pictured]
      bounds = scale(a for kinds in others for a in kinds.get(kind, {}).values())
      made.append(_gate_grid(findings, variant, index, kind, paths, bounds))
    if variant.pictured.gates.attention:
      everywhere = [v.pictured.gates.attention for v in findings.variants if v.pictured]
      bounds = scale((a for maps in everywhere for a in _relative(maps).values()), from_zero=True)
      paths = _relative(variant.pictured.gates.attention)
      made.append(_gate_grid(findings, variant, index, '', paths, bounds))
  return [illustration for illustration in made if illustration is not None]


def _by_kind(maps: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
  """Maps by the last part of their path: what is alike in every mechanism shares its scale."""
  kinds: dict[str, dict[str, np.ndarray]] = {}
  for path, found in maps.items():
    kinds.setdefault(path.rsplit('/', 1)[-1], {})[path] = found
  return kinds


def _relative(maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Weights over positions as multiples of the uniform weight, comparable across resolutions."""
  return {path: found * found.shape[-2] * found.shape[-1] for path, found in maps.items()}


def spread_out(paths: Sequence[str], most: int) -> list[str]:
  """At most so many paths, from the first to the last."""
  if len(paths) <= most:
    return list(paths)
  return [paths[round(i)] for i in np.linspace(0, len(paths) - 1, most)]


def _gate_grid(
  findings: Findings,
  variant: Variant,
  index: int,
  kind: str,
  maps: Mapping[str, np.ndarray],
  bounds: tuple[float, float],
) -> style.Illustration | None:
  """One variant's maps over the images; an empty `kind` is attention from the query."""
  count = min(len(findings.images), MOST_GATED)
  if not count or variant.pictured is None:
    return None
  chosen = spread_out(list(maps), MOST_PATHS)
  titles = [path.split('/')[0] for path in chosen]
  if len(set(titles)) < len(titles):
    titles = ['\n'.join(path.split('/')[:-1]) for path in chosen]
  canvas = Canvas(figsize=(1.5 * (len(chosen) + 1) + 0.9, 1.5 * count + 0.6), layout='constrained')
  axes = canvas.subplots(count, len(chosen) + 1, squeeze=False)
  for row in range(count):
    bare(axes[row, 0], findings.images[row], _mask(findings, row), coloured=True)
    for ax, path, title in zip(axes[row, 1:], chosen, titles, strict=True):
      bare(ax, findings.images[row], _mask(findings, row))
      drawn = overlay(ax, maps[path][row], findings.images.shape[1:3], bounds)
      if row == 0:
        ax.set_title('\n'.join(style.plain(part, 22) for part in title.split('\n')))
    if not kind:
      for ax in axes[row]:
        _mark(ax, findings, variant.pictured.gates.query)
  axes[0, 0].set_title('image')
  what = kind.replace('_', ' ') or 'attention from the query'
  unit = kind.replace('_', ' ') or 'multiples of the uniform weight'
  canvas.colorbar(
    drawn, ax=axes, pad=0.01, aspect=30, shrink=0.8, format='%.3g', label=style.plain(unit)
  )
  marked = ' The cross marks the query position.' if not kind else ''
  return style.finish(
    canvas,
    style.file_name('gates', index, variant.name, kind or 'attention'),
    f'{variant.name}: {what}',
    f'One scale for the whole grid and for every variant that has such maps.{marked}',
    f'{what} of {variant.name} over {count} images, at {len(chosen)} places of the network.',
  )


def _mark(ax: Axes, findings: Findings, query: tuple[float, float]) -> None:
  height, width = findings.images.shape[1:3]
  y, x = query[0] * height - 0.5, query[1] * width - 0.5
  halo = [patheffects.withStroke(linewidth=3.5, foreground='black')]
  ax.plot(x, y, '+', color='white', ms=10, mew=1.6, path_effects=halo)
