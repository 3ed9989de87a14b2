"""The report as one HTML file that loads nothing from elsewhere."""

import base64
import io
import pathlib
from collections.abc import Sequence

import jinja2
from PIL import Image

from attn_flax.report.cells import Table
from attn_flax.report.document import Gallery, Section
from attn_flax.report.style import Illustration

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
    title=title, sections=document, kind=_kind, data=_data, tone=_tone
  )


def _kind(part: object) -> str:
  if isinstance(part, Table):
    return 'table'
  return 'gallery' if isinstance(part, Gallery) else 'illustration'


def _data(illustration: Illustration) -> str:
  kind, content = 'png', illustration.png
  if illustration.is_photo:  # A third of the size, and the PNG lies in `plots/`.
    file = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
      image.save(file, 'webp', quality=90)
    kind, content = 'webp', file.getvalue()
  return f'data:image/{kind};base64,' + base64.b64encode(content).decode('ascii')


def _tone(verdict: str) -> str:
  return _TONES.get(verdict, '')
