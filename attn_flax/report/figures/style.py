"""The style of all plots: colors, sizes, and the conversion of a figure into a PNG."""

import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Canvas
from PIL import Image

from attn_flax.report.figures import fonts

# Okabe and Ito, Color Universal Design (2008), without their yellow, too pale for lines on white.
BLACK, GRAY = '#000000', '#767676'
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
DASHES = (
  (0, (5, 1.5)),
  (0, (1.2, 1.2)),
  (0, (5, 1.5, 1.2, 1.5)),
  (0, (9, 2)),
  (0, (3, 1, 1, 1, 1, 1)),
)
MARKERS = ('s', '^', 'D', 'v', 'P', 'X', '<', '>')
MAP = 'viridis'
# The background and the text of a dark page, as in `template.html`.
NIGHT, PALE = '#15181c', '#e6e8eb'
DPI = 120

_SETTINGS: dict[Any, Any] = {
  'font.size': 9,
  'axes.titlesize': 9,
  'axes.labelsize': 9,
  'legend.fontsize': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': '#555555',
  'axes.grid': False,
  'axes.axisbelow': True,
  'grid.color': '#dddddd',
  'grid.linewidth': 0.6,
  'legend.frameon': False,
  'figure.facecolor': 'white',
  'savefig.facecolor': 'white',
  'figure.constrained_layout.w_pad': 0.06,
  'figure.constrained_layout.h_pad': 0.06,
}


@dataclasses.dataclass(frozen=True)
class Illustration:
  """A finished picture.

  Attributes:
    name: name of its file, without folder and extension.
    title: its heading.
    caption: explains how to read it.
    alt: alternative text, for readers who do not see it.
    png: content of the PNG file.
    is_photo: whether it shows photographs or maps, which compress badly without loss.
    night: a PNG to lay over `png` on a dark page: background and text in the page's colors, and
      transparent where colors encode values; b'' where all colors may be inverted instead.
    narrow: the same picture drawn for a phone; None where it is scrolled sideways there.
  """

  name: str
  title: str
  caption: str
  alt: str
  png: bytes
  is_photo: bool = False
  night: bytes = b''
  narrow: 'Illustration | None' = None

  @property
  def size(self) -> tuple[int, int]:
    """Width and height in CSS pixels, 96 per inch; the file has `DPI` per inch."""
    width, height = (int.from_bytes(self.png[i : i + 4], 'big') for i in (16, 20))
    return round(width * 96 / DPI), round(height * 96 / DPI)


@contextmanager
def drawing(families: Sequence[str] = ()) -> Iterator[None]:
  """Applies the style to all figures made inside; `families`: see `fonts.Lettering`."""
  with matplotlib.rc_context():
    matplotlib.rcdefaults()  # The user's own matplotlibrc has no effect on reports.
    matplotlib.rcParams.update(_SETTINGS)
    matplotlib.rcParams['font.family'] = [fonts.USUAL, *families]
    yield


class Look(TypedDict):
  """The line style of a variant: keyword arguments of `Axes.plot`."""

  color: str
  linestyle: str | tuple[int, tuple[float, ...]]
  marker: str


def line_style(index: int) -> Look:
  """Color, dashes and marker of a variant by its index; the baseline, 0, is black and solid."""
  if index == 0:
    return {'color': BLACK, 'linestyle': '-', 'marker': 'o'}
  index -= 1
  return {
    'color': COLORS[index % len(COLORS)],
    'linestyle': DASHES[index % len(DASHES)],
    'marker': MARKERS[index % len(MARKERS)],
  }


def plain(text: str, longest: int = 32) -> str:
  """A name for matplotlib: on one line, at most `longest` letters, and `$` starts no formula."""
  text = ' '.join(str(text).split())
  text = text if len(text) <= longest else text[: longest - 1] + '…'
  # Matplotlib leaves labels that begin with an underscore out of legends.
  return (' ' if text.startswith('_') else '') + text.replace('$', r'\$')


def legend_columns(labels: Sequence[str], width: float) -> int:
  """How many columns of a legend with these labels fit into `width` inches; at least one."""
  widths = [0.5 + 0.068 * len(label) for label in labels]
  if sum(widths) <= width:
    return max(1, len(widths))
  return max(1, int(width / max(widths)))


def file_name(*parts: str | int) -> str:
  """Joins parts to a file name of lowercase letters, digits and underscores."""
  return '_'.join(
    filter(None, (re.sub(r'[^a-z0-9]+', '_', str(p).lower()).strip('_') for p in parts))
  )


def finish(
  canvas: Canvas,
  name: str,
  title: str,
  caption: str,
  alt: str,
  *,
  maps: bool = False,
  scaled: bool = False,
) -> Illustration:
  """Draws a figure into a PNG.

  Args:
    canvas: the figure.
    name: name of its file.
    title: its heading.
    caption: explains how to read it.
    alt: alternative text, for readers who do not see it.
    maps: whether it shows maps and keeps nearly all shades; others are reduced to a palette.
    scaled: whether its colors are read from a color bar; always so with `maps`.
  """
  png = _drawn(canvas)
  night = _night(canvas, png) if maps or scaled else b''
  few = rounded(png) if maps else smaller(png, 256 if scaled else 64)
  return Illustration(name, title, caption, alt, few, maps, night)


def _drawn(canvas: Canvas, paper: str = 'white') -> bytes:
  file = io.BytesIO()
  canvas.savefig(file, format='png', dpi=DPI, facecolor=paper, metadata={'Software': None})
  return file.getvalue()


def _night(canvas: Canvas, png: bytes) -> bytes:
  """A figure's pixels on a dark background with pale text, transparent where they do not differ.

  Text inside the axes stays as it is, because its color suits the colors below it.
  """
  canvas.set_layout_engine('none')  # Everything stays in place when it is drawn again.
  for ax in canvas.axes:
    ax.tick_params(which='both', colors=PALE)
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
      text.set_color(PALE)
  with Image.open(io.BytesIO(png)) as light, Image.open(io.BytesIO(_drawn(canvas, NIGHT))) as dark:
    colors = np.asarray(dark.convert('RGB'))
    differs = (colors != np.asarray(light.convert('RGB'))).any(-1)
  # A few shades between background and text are enough.
  ends = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (NIGHT, PALE)]
  share = np.round(7 * (colors.mean(-1) - np.mean(ends[0])) / np.ptp(np.mean(ends, 1))) / 7
  shades = ends[0] + np.clip(share, 0, 1)[..., None] * np.subtract(ends[1], ends[0])
  file = io.BytesIO()
  Image.fromarray(
    np.dstack([np.round(shades) * differs[..., None], 255 * differs]).astype(np.uint8)
  ).save(file, 'png', optimize=True)
  return file.getvalue()


def rounded(png: bytes) -> bytes:
  """A PNG with colors in steps of four, an invisible difference that halves its size."""
  file = io.BytesIO()
  with Image.open(io.BytesIO(png)) as image:
    image.convert('RGB').point(lambda value: value // 4 * 4 + value // 64).save(
      file, 'png', optimize=True
    )
  return file.getvalue()


def smaller(png: bytes, colors: int) -> bytes:
  """A PNG with a palette of `colors`: lines and text look the same at a third of the size."""
  file = io.BytesIO()
  with Image.open(io.BytesIO(png)) as image:
    few = image.convert('RGB').quantize(colors, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
    few.save(file, 'png', optimize=True)
  return file.getvalue()
