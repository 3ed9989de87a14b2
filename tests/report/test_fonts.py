"""Letters that matplotlib's default font lacks come from installed fonts, or are reported."""

import dataclasses
import warnings

import fake_findings
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from attn_flax.report.figures import channels, classification, fonts, pictures, style


@pytest.fixture(autouse=True)
def forget():
  fonts._covers.cache_clear()
  yield
  fonts._covers.cache_clear()


@pytest.fixture
def machine(monkeypatch):
  """A function that makes some fonts the only installed ones: {family: file}."""

  def install(**files):
    entries = [
      font_manager.FontEntry(fname=str(file), name=family, weight=400, style='normal')
      for family, file in files.items()
    ]
    usual = [e for e in font_manager.fontManager.ttflist if e.name == fonts.USUAL]
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', [*usual, *entries])

  return install


def font_file(path, letters, family):
  """A font in which some letters are black squares."""
  pen = TTGlyphPen(None)
  for move, place in (
    ('moveTo', (0, 0)),
    *(('lineTo', p) for p in ((0, 900), (900, 900), (900, 0))),
  ):
    getattr(pen, move)(place)
  pen.closePath()
  square = pen.glyph()
  names = [f'g{i}' for i in range(len(letters))]
  builder = FontBuilder(1000, isTTF=True)
  builder.setupGlyphOrder(['.notdef', *names])
  builder.setupCharacterMap(dict(zip(map(ord, letters), names, strict=True)))
  builder.setupGlyf(dict.fromkeys(['.notdef', *names], square))
  builder.setupHorizontalMetrics(dict.fromkeys(['.notdef', *names], (1000, 0)))
  builder.setupHorizontalHeader(ascent=900, descent=-100)
  builder.setupNameTable({'familyName': family, 'styleName': 'Regular'})
  builder.setupOS2()
  builder.setupPost()
  builder.save(path)
  return path


def test_the_usual_font_serves_where_it_has_all_letters(machine):
  machine()
  assert fonts.lettering(['cat', 'Übergröße', 'кошка', 'a\tb', '']) == ((), frozenset())
  # A decomposed letter, as in file names of macOS.
  assert fonts.lettering(['u\u0308']) == ((), frozenset())


def test_letters_come_from_as_few_fonts_as_there_may_be(machine, tmp_path):
  machine(
    One=font_file(tmp_path / 'one.ttf', '猫', 'One'),
    Both=font_file(tmp_path / 'both.ttf', '猫犬', 'Both'),
    Korean=font_file(tmp_path / 'korean.ttf', '개', 'Korean'),
    Gone=tmp_path / 'gone.ttf',
  )
  found = fonts.lettering(['猫と犬'.replace('と', ''), '개', 'cat'])
  assert set(found.families) == {'Both', 'Korean'} and not found.lacking
  assert found.has('猫') and found.has('cat')


def test_what_no_font_has_is_told(machine, tmp_path):
  machine(One=font_file(tmp_path / 'one.ttf', '猫', 'One'))
  found = fonts.lettering(['猫', 'ねこ', 'cat'])
  assert found == (('One',), frozenset('ねこ'))
  assert found.has('猫') and not found.has('ねこ猫') and found.has('cat')


def test_a_font_of_empty_boxes_is_none():
  """Matplotlib's own last resort has a box for every letter."""
  found = fonts.lettering(['\U0001f9ff猫'])
  assert not any(family.startswith('Last') for family in found.families)


@pytest.mark.parametrize('installed', [True, False])
def test_the_figures_of_a_report_hold_no_empty_boxes(installed, machine, tmp_path):
  names = [f'猫{i}' for i in range(10)]
  files = {'One': font_file(tmp_path / 'one.ttf', '猫', 'One')} if installed else {}
  machine(**files)
  with warnings.catch_warnings():
    warnings.simplefilter('error')  # Matplotlib warns about missing glyphs.
    found = dataclasses.replace(fake_findings.findings(['resnet', 'se']), class_names=names)
    with style.drawing(fonts.lettering(names).families):
      pictures.cams(found)
      classification.confusions(found)
      channels.plots(found)
  expected = '猫3' if installed else 'class 3'
  assert pictures._class(found, 3) == expected
