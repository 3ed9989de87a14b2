"""Grids of images with maps drawn over them: Grad-CAM, spatial gates and attention.

A color means the same number in every picture that shares a color bar. No map is scaled to its own
range, so that a faint map looks faint; and a single outlier does not determine the range, see
`scales`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.image import AxesImage

from attn_flax.report.figures import scales, style
from attn_flax.report.figures.fonts import lettering
from attn_flax.study.explanations import Gates, Pictured
from attn_flax.study.findings import Findings, Variant

MOST_GATED = 4
MOST_PATHS = 5
OVERLAY = 0.6
# Kinds of maps that are weights over positions, and their titles.
WEIGHTS = {'received': 'attention received', 'attention': 'attention from the query'}
RIGHT, WRONG = '✓', '✗'


def is_blank(values: np.ndarray) -> bool:
  """Whether a map is zero everywhere or has a value that is not finite, so that it is not drawn."""
  return not np.any(values) or not np.all(np.isfinite(values))


def cams(findings: Findings) -> style.Illustration | None:
  """The same images with the Grad-CAM of every variant, each image with a scale of its own.

  None where no variant was pictured, or there are no images.
  """
  shown = [(v.name, v.pictured) for v in findings.variants if v.pictured is not None]
  count = len(findings.images)
  if not shown or not count:
    return None
  canvas = Canvas(figsize=(1.25 * (len(shown) + 1) + 0.9, 1.48 * count + 0.3), layout='constrained')
  axes = canvas.subplots(count, len(shown) + 1, squeeze=False)
  outside = np.zeros((count, 2))
  for row in range(count):
    found = [pictured.cams[row] for _, pictured in shown]
    bounds = scales.scale(found, from_zero=True)
    outside[row] = scales.beyond(found, bounds)
    bare(axes[row, 0], findings.images[row], _mask(findings, row), colored=True)
    axes[row, 0].set_xlabel(f'label: {_class(findings, findings.labels[row])}')
    for ax, (name, pictured) in zip(axes[row, 1:], shown, strict=True):
      bare(ax, findings.images[row], _mask(findings, row))
      drawn = overlay(ax, pictured.cams[row], findings.images.shape[1:3], bounds)
      _answer(ax, findings, pictured, row)
      if row == 0:
        ax.set_title(style.plain(name, 18), fontweight='bold')
    bar = canvas.colorbar(
      drawn,
      ax=axes[row, :],
      pad=0.01,
      aspect=14,
      format='%.3g',
      extend=scales.pointed(outside[row]),
    )
    bar.ax.locator_params(nbins=4)
  axes[0, 0].set_title('image')
  outline = ' The outline is the mask of the object.' if findings.masks is not None else ''
  return style.finish(
    canvas,
    'grad_cam',
    'Grad-CAM',
    f'Grad-CAM for the true class on the same images{_of_seeds(shown)}. In each row, all variants'
    f' share one scale.{scales.clipped(outside.mean(0), "its scale")}{outline}'
    f' Below each map: the predicted class and its probability; {WRONG} and a thick frame mark a'
    ' wrong prediction. “empty” marks a map that is zero everywhere.',
    f'{count} image{"" if count == 1 else "s"}, each beside its Grad-CAM in {len(shown)}'
    f' variant{"" if len(shown) == 1 else "s"}.',
    maps=True,
  )


def _of_seeds(shown: Sequence[tuple[str, Pictured]]) -> str:
  """Says from which seeds the pictured runs are."""
  seeds = {name: pictured.seed for name, pictured in shown}
  if len(set(seeds.values())) == 1:
    return f', from seed {shown[0][1].seed}'
  return ', from ' + ', '.join(f'seed {seed} ({name})' for name, seed in seeds.items())


def _mask(findings: Findings, row: int) -> np.ndarray | None:
  return None if findings.masks is None else findings.masks[row]


def _class(findings: Findings, label: int) -> str:
  names = lettering(findings.class_names).named(findings.class_names)
  return style.plain(names[int(label)], 12)


def bare(
  ax: Axes, image: np.ndarray, mask: np.ndarray | None = None, *, colored: bool = False
) -> None:
  """Draws an image without ticks, with the outline of its mask.

  Args:
    ax: where to draw.
    image: [H, W, 3] uint8.
    mask: [H, W] bool; None: no outline.
    colored: whether the image keeps its colors. Below a map it is light gray, because dark pixels
      would be read as lower values of the map.
  """
  if colored:
    ax.imshow(image)
  else:
    ax.imshow(image.mean(-1), cmap='gray', vmin=-255, vmax=255)
  ax.set_xticks([])
  ax.set_yticks([])
  for spine in ax.spines.values():
    spine.set_visible(False)
  if mask is not None and 0 < mask.mean() < 1:
    for color, width in (('black', 2.2), ('white', 1.1)):
      ax.contour(mask.astype(float), [0.5], colors=[color], linewidths=[width])


def overlay(
  ax: Axes, values: np.ndarray, size: Sequence[int], bounds: tuple[float, float]
) -> AxesImage:
  """Draws a map over an image.

  A blank map leaves the image as it is, with the word 'empty' on it.

  Args:
    ax: where the image is drawn.
    values: the map, [h, w].
    size: height and width of the image in pixels.
    bounds: the lowest and the highest value of the color scale.

  Returns:
    What a color bar is made from.
  """
  height, width = size
  blank = is_blank(values)
  drawn = ax.imshow(
    np.zeros_like(values) if blank else values,
    cmap=style.MAP,
    vmin=bounds[0],
    vmax=bounds[1],
    extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    interpolation='bilinear',
    alpha=OVERLAY,
    visible=not blank,
  )
  if blank:
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
      spine.set(visible=True, edgecolor=style.COLORS[1], linewidth=2.5)


def gates(findings: Findings) -> list[style.Illustration]:
  """A grid for each variant and kind of map: spatial gates, attention received and attention paid.

  The attention paid is that of one query position. All grids of a kind share one color scale.
  """
  drawn = {v.name: _drawn(v.pictured.gates) for v in findings.variants if v.pictured is not None}
  made = []
  for index, variant in enumerate(findings.variants):
    for kind, maps in drawn.get(variant.name, {}).items():
      alike = [found for kinds in drawn.values() for found in kinds.get(kind, {}).values()]
      bounds = scales.scale(alike, from_zero=kind in WEIGHTS)
      made.append(
        _gate_grid(findings, variant, index, kind, maps, bounds, scales.beyond(alike, bounds))
      )
  return [illustration for illustration in made if illustration is not None]


def _drawn(found: Gates) -> dict[str, dict[str, np.ndarray]]:
  """The maps that are drawn, {kind: {path: [P, h, w]}}; the kind is the last part of the path.

  Weights over positions become multiples of the uniform weight, comparable across resolutions.
  """
  kinds: dict[str, dict[str, np.ndarray]] = {}
  for path, maps in found.spatial.items():
    kinds.setdefault(path.rsplit('/', 1)[-1], {})[path] = maps
  if found.attention:
    kinds['attention'] = dict(found.attention)
  return {
    kind: {
      path: maps[path][:MOST_GATED] * (maps[path][0].size if kind in WEIGHTS else 1)
      for path in spread_out(list(maps), MOST_PATHS)
    }
    for kind, maps in kinds.items()
  }


def spread_out(paths: Sequence[str], most: int) -> list[str]:
  """At most `most` of some paths, evenly spread from the first to the last."""
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
  outside: np.ndarray,
) -> style.Illustration | None:
  """A grid of one variant's maps of one kind: a row per image, a column per place."""
  count = min(len(findings.images), MOST_GATED)
  if not count or variant.pictured is None:
    return None
  titles = [path.split('/')[0] for path in maps]
  if len(set(titles)) < len(titles):
    titles = ['\n'.join(path.split('/')[:-1]) for path in maps]
  canvas = Canvas(figsize=(1.5 * (len(maps) + 1) + 0.9, 1.5 * count + 0.6), layout='constrained')
  axes = canvas.subplots(count, len(maps) + 1, squeeze=False)
  for row in range(count):
    bare(axes[row, 0], findings.images[row], _mask(findings, row), colored=True)
    for ax, found, title in zip(axes[row, 1:], maps.values(), titles, strict=True):
      bare(ax, findings.images[row], _mask(findings, row))
      drawn = overlay(ax, found[row], findings.images.shape[1:3], bounds)
      if row == 0:
        ax.set_title('\n'.join(style.plain(part, 22) for part in title.split('\n')))
    if kind == 'attention':
      for ax in axes[row]:
        _mark(ax, findings, variant.pictured.gates.query)
  axes[0, 0].set_title('image')
  what = WEIGHTS.get(kind) or kind.replace('_', ' ')
  unit = f'{what}, multiples of the uniform weight' if kind in WEIGHTS else what
  canvas.colorbar(
    drawn,
    ax=axes,
    pad=0.01,
    aspect=30,
    shrink=0.8,
    format='%.3g',
    label=style.plain(unit, 64),
    extend=scales.pointed(outside),
  )
  marked = ' The cross marks the query position.' if kind == 'attention' else ''
  return style.finish(
    canvas,
    style.file_name('gates', index, variant.name, kind),
    f'{variant.name}: {what}',
    'All maps of this kind share one scale, in every variant that has them.'
    f'{scales.clipped(outside, "the scale")}{marked}',
    f'{what[0].upper()}{what[1:]} of {variant.name} on {count} image{"" if count == 1 else "s"}, at'
    f' {len(maps)} place{"" if len(maps) == 1 else "s"} in the network.',
    maps=True,
  )


def _mark(ax: Axes, findings: Findings, query: tuple[float, float]) -> None:
  height, width = findings.images.shape[1:3]
  y, x = query[0] * height - 0.5, query[1] * width - 0.5
  halo = [patheffects.withStroke(linewidth=3.5, foreground='black')]
  ax.plot(x, y, '+', color='white', ms=10, mew=1.6, path_effects=halo)
