"""The report as one HTML file that loads no other files."""

import base64
import io
import pathlib
import re
from collections.abc import Sequence

import jinja2
from PIL import Image

from attn_flax.report.figures.style import Illustration
from attn_flax.report.parts import Part, Section
from attn_flax.study.statistics import Verdict

# Classes of the style sheet by verdict.
_TONES: dict[str, str] = {Verdict.BETTER: 'better', Verdict.WORSE: 'worse', Verdict.OPEN: 'open'}


def render(title: str, document: Sequence[Section]) -> str:
  """The text of `report.html`, with all images inside."""
  environment = jinja2.Environment(
    autoescape=True,
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template('template.html').render(
    title=title,
    sections=document,
    kind=_kind,
    data=_data,
    tone=_tone,
    heading=_heading,
    night=_night,
  )


def _kind(part: Part) -> str:
  return type(part).__name__.lower()


def _data(illustration: Illustration) -> str:
  # Lossy where it is a photo; the PNG with every shade is in `plots/`.
  return _webp(illustration.png, 'RGB', is_photo=illustration.is_photo)


def _night(illustration: Illustration) -> str:
  return _webp(illustration.night, 'RGBA', is_photo=False)


def _webp(png: bytes, mode: str, *, is_photo: bool) -> str:
  file = io.BytesIO()
  with Image.open(io.BytesIO(png)) as image:
    # A higher `method` takes fifty times as long for drawings and makes no smaller file.
    quality = (
      {'quality': 50, 'method': 6} if is_photo else {'lossless': True, 'quality': 80, 'method': 4}
    )
    image.convert(mode).save(file, 'webp', **quality)
  return 'data:image/webp;base64,' + base64.b64encode(file.getvalue()).decode('ascii')


def _heading(title: str) -> str:
  """A column's title without line breaks before its unit or after a hyphen before a number."""
  title = re.sub(r'-(?=\d)', '\N{NON-BREAKING HYPHEN}', title)
  return title.replace(', %', ',\N{NO-BREAK SPACE}%')


def _tone(verdict: str) -> str:
  return _TONES.get(verdict, '')
