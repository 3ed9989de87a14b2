"""Photographs with maps: where a map lies, what stays visible, and what is said in words."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from attn_flax.report.figures import contact_sheet, page, photographs
from attn_flax.report.figures.fonts import Lettering
from attn_flax.report.figures.photographs import Caption, Photograph

PLAIN = Lettering((), frozenset())
RAMP = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)


def photo(height=60, width=90, box=None):
  pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
  return Photograph(pixels, box or (0, 0, width, height))


def texts(monkeypatch):
  """The texts of the pages that are made."""
  noted = []
  write = page.Page.write
  monkeypatch.setattr(
    page.Page,
    'write',
    lambda self, text, *args, **fields: noted.append(text) or write(self, text, *args, **fields),
  )
  return noted


def picture(png):
  with Image.open(io.BytesIO(png)) as image:
    return np.asarray(image.convert('RGB'))


def test_a_map_lies_on_what_the_network_saw():
  """A single high value colors its own pixel most, and what was cropped away has no color."""
  values = np.zeros((4, 4), np.float32)
  values[1, 2] = 1
  gray = Photograph(np.full((100, 140, 3), 100, np.uint8), (30, 10, 110, 90))
  found = photographs.painted(gray, values)
  colored = np.ptp(found, axis=-1)
  y, x = np.unravel_index(colored.argmax(), colored.shape)
  # The middle of the cell (1, 2) of 20 pixels each.
  assert abs(y - (10 + 30)) <= 1 and abs(x - (30 + 50)) <= 1
  outside = np.ones((100, 140), bool)
  outside[10:90, 30:110] = False
  assert not colored[outside].any() and (found[outside] > 180).all()


def test_the_photograph_stays_visible_where_the_map_is_low():
  """And below the highest value of the map, its outlines stay visible."""
  plain = photo()
  low, high = (
    photographs.painted(plain, np.array([[0, 1]], np.float32))[:, part].astype(float).mean(-1)
    for part in (slice(0, 15), slice(75, 90))
  )
  before = plain.pixels.mean(-1)
  np.testing.assert_allclose(low, before[:, :15], atol=1)
  assert np.corrcoef(high.ravel(), before[:, 75:].ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
  ('values', 'word', 'said'),
  [
    (np.linspace(0.49977, 0.49978, 16).reshape(4, 4), 'flat', '0.49977 to 0.49978 everywhere'),
    (np.full((4, 4), 0.5), 'flat', '0.5 everywhere'),
    (np.full((4, 4), -3.0), 'flat', '-3 everywhere'),
    (np.zeros((4, 4)), 'empty', 'zero everywhere'),
    (np.full((4, 4), np.nan), 'empty', 'its values are not finite'),
  ],
)
def test_what_hardly_varies_is_told_and_not_painted(values, word, said, monkeypatch):
  values = values.astype(np.float32)
  plain = photo()
  np.testing.assert_array_equal(photographs.painted(plain, values), plain.pixels)
  noted = texts(monkeypatch)
  photographs.overlays(plain, {'own_map': values}, Caption('cat', 0.5), PLAIN)
  assert word in noted and said in noted
  assert photographs.words(RAMP) == ''


def test_the_ends_of_a_scale_are_told():
  ends = lambda values: photographs.range_of(np.asarray(values, np.float32)).ends  # noqa: E731
  assert ends(RAMP) == ('0', '1')
  assert ends(0.45 + 0.1 * RAMP) == ('0.45', '0.55')
  assert ends(0.01 + RAMP) == ('0', '1.01')
  assert ends(2 * RAMP - 0.5) == ('-1.5', '1.5')
  assert photographs.numbers(0.49977, 0.49978) == ('0.49977', '0.49978')
  assert photographs.numbers(1000.2, 1000.3) == ('1000.2', '1000.3')


def test_an_outlier_does_not_flood_the_scale(monkeypatch):
  values = np.random.default_rng(1).random((50, 50)).astype(np.float32)
  values[3, 4] = 110
  span = photographs.range_of(values)
  assert 0.9 < span.high <= 1 and span.ends[1].startswith('≥ ')
  assert span.beyond == pytest.approx(0.01, abs=2e-3)
  noted = texts(monkeypatch)
  photographs.overlays(photo(), {'smooth_grad': values}, Caption('cat', 0.5), PLAIN)
  assert '1.0 % beyond the scale' in noted


def test_negative_values_have_another_color():
  span = photographs.range_of(np.array([[-1.0, 1.0]]))
  color, alpha = photographs._colors(np.array([-1.0, 0.0, 1.0]), span)
  assert color[0, 2] > color[0, 0] and color[2, 0] > color[2, 2]  # Blue, and red.
  assert alpha[1] == 0 and alpha[0] == alpha[2] > 0.5


@pytest.mark.parametrize('size', [(1, 1), (3, 900), (900, 3), (32, 32), (427, 640), (1024, 700)])
@pytest.mark.parametrize('count', [1, 2, 9])
def test_pages_hold_photographs_of_any_shape_pixel_by_pixel(size, count):
  plain = photo(*size)
  maps = {f'method_{i}': np.full((2, 2), 0.5) for i in range(count)}  # A flat map is not painted.
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    drawn = picture(photographs.overlays(plain, maps, Caption('cat', 0.5, 'dog'), PLAIN))
  shown = photographs.enlarged(plain).pixels
  assert max(shown.shape[:2]) >= 256
  height, width = shown.shape[:2]
  places = [
    (y, x)
    for y, x in np.ndindex(80, 30)
    if (drawn[y : y + 1, x : x + width] == shown[:1]).all()
    and np.array_equal(drawn[y : y + height, x : x + width], shown)
  ]
  assert len(places) == 1  # The first panel, which has no word over it.


@pytest.mark.parametrize(
  ('label', 'verdict'), [('cat', '✓ label: cat'), ('dog', '✗ label: dog'), (None, '')]
)
def test_the_class_that_is_explained_and_the_true_one_are_told(label, verdict, monkeypatch):
  noted = texts(monkeypatch)
  photographs.overlays(photo(), {'grad_cam': RAMP}, Caption('cat', 0.876, label), PLAIN)
  assert 'explained: cat' in noted and 'probability 0.88' in noted
  assert (verdict in noted) and sum('label' in text for text in noted) == bool(verdict)


def test_names_are_cut_to_the_width_and_printed_letter_by_letter():
  assert page.fitted('short', 10) == 'short'
  assert page.fitted('a' * 100, 10) == 'a' * 15 + '…'
  assert page.fitted('猫' * 100, 10) == '猫' * 8 + '…'
  assert page.fitted('$a_1$\n b', 10) == r'\$a_1\$ b'


def test_many_photographs_are_on_one_page(monkeypatch):
  sheet = contact_sheet.ContactSheet()
  noted = texts(monkeypatch)
  count = contact_sheet.MOST_IMAGES + 5
  shapes = [(60, 90), (90, 60), (10, 400)]
  for i in range(count):
    maps = {'grad_cam': RAMP, 'own_map': np.full((2, 2), 0.5)}
    sheet.add(f'{i:04}', photo(*shapes[i % 3]), maps, Caption(f'class {i}', 0.5, 'dog'))
  drawn = picture(sheet.png(PLAIN))
  assert drawn.shape[1] < 1700
  told = [text for text in noted if text.startswith('explained: ')]
  assert told == [f'explained: class {i} · 0.50' for i in range(contact_sheet.MOST_IMAGES)]
  assert noted.count('flat') == contact_sheet.MOST_IMAGES
  one = contact_sheet.ContactSheet()
  one.add('0001', photo(), {f'm{i}': RAMP for i in range(15)}, Caption('cat', 0.5))
  assert picture(one.png(PLAIN)).shape[1] > 15 * 160
