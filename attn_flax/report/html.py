"""The report as one HTML file that loads nothing from elsewhere."""

import base64
import io
import pathlib
import re
from collections.abc import Sequence

import jinja2
from PIL import Image

from attn_flax.report.figures.style import Illustration
from attn_flax.report.parts import Gallery, Section
from attn_flax.report.tables.cells import Table

_TONES = {'better': 'better', 'worse': 'worse', 'no difference shown': 'open'}


def render(title: str, document: Sequence[Section]) -> str:
  """The text of `report.html`."""
  environment = jinja2.Environment(
    autoescape=True,
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template('template.html').render(
    title=title, sections=document, kind=_kind, data=_data, tone=_tone, heading=_heading
  )


def _kind(part: object) -> str:
  if isinstance(part, Table):
    return 'table'
  return 'gallery' if isinstance(part, Gallery) else 'illustration'


def _data(illustration: Illustration) -> str:
  file = io.BytesIO()
  with Image.open(io.BytesIO(illustration.png)) as image:
    # The PNG, with every shade, lies in `plots/`.
    quality = {'quality': 65} if illustration.is_photo else {'lossless': True, 'quality': 100}
    image.convert('RGB').save(file, 'webp', method=6, **quality)
  return 'data:image/webp;base64,' + base64.b64encode(file.getvalue()).decode('ascii')


def _heading(title: str) -> str:
  """A column's title, which is broken neither before its unit nor before a number."""
  title = re.sub(r'-(?=\d)', '\N{NON-BREAKING HYPHEN}', title)
  return title.replace(', %', ',\N{NO-BREAK SPACE}%')


def _tone(verdict: str) -> str:
  return _TONES.get(verdict, '')
