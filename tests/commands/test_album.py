"""The pictures that `--mode=explain` draws: their pixels, their crops and their file names."""

import os

import numpy as np
import pytest
from PIL import Image

from attn_flax import UserError
from attn_flax.commands import album
from attn_flax.commands.album import Album
from attn_flax.commands.images import class_folder
from attn_flax.commands.predict import Answer
from attn_flax.data import decode
from attn_flax.report.figures.fonts import Lettering
from attn_flax.training.trained_run import TrainedRun

MAPS = {'own_map': np.full((2, 2), 0.5, np.float32)}
ANSWER = Answer(1, 'dog', 0.75)


def trained(names=('cat', 'dog'), size=8, resize=10):
  """A run with only what pictures need."""
  fields = {'class_names': list(names), 'size': size, 'resize': resize}
  return TrainedRun(model=None, classes=None, variables={}, augmentation=None, **fields)


@pytest.fixture
def noted(monkeypatch):
  """The arguments with which each picture is drawn: (photograph, maps, told, fonts)."""
  drawn = []
  monkeypatch.setattr(album, 'overlays', lambda *args: drawn.append(args) or b'picture')
  return drawn


def save(path, pixels, **fields):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, **fields)
  return path


def noise(height, width):
  return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_photograph_is_drawn_at_its_own_resolution(noted, tmp_path):
  path = save(tmp_path / 'a.png', noise(30, 50))
  row = Album(trained(), tmp_path / 'out', [path]).draw(path, MAPS, ANSWER)
  photo, maps, told, _ = noted[0]
  np.testing.assert_array_equal(photo.pixels, noise(30, 50))
  # The shorter side of 30 becomes 10, of which the network sees the middle 8: 24 pixels.
  assert row['size'] == row['drawn'] == [30, 50] and row['crop'] == [3.0, 12.5, 27.0, 37.5]
  np.testing.assert_allclose(photo.box, (12.5, 3, 37.5, 27))
  assert maps is MAPS and told == ('dog', 0.75, None) and row['true_label'] is None
  assert row['picture'] == str(tmp_path / 'out/0001_a.png')


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_photograph_is_upright_as_the_network_saw_it(orientation, noted, tmp_path):
  """The box holds the pixels that the network gets, for every EXIF orientation."""
  exif = Image.Exif()
  exif[0x0112] = orientation
  smooth = np.asarray(Image.fromarray(noise(3, 5)).resize((80, 48), Image.Resampling.BILINEAR))
  path = save(tmp_path / 'a.png', smooth, exif=exif)
  run = trained(size=16, resize=16)
  Album(run, tmp_path / 'out', [path]).draw(path, MAPS, ANSWER)
  photo = noted[0][0]
  assert photo.pixels.shape[:2] == ((80, 48) if orientation > 4 else (48, 80))
  seen = Image.fromarray(photo.pixels).resize((16, 16), Image.Resampling.BILINEAR, box=photo.box)
  np.testing.assert_allclose(np.asarray(seen).astype(int), run.read(path).astype(int), atol=1)


def test_a_large_photograph_is_drawn_smaller_and_it_is_said(noted, tmp_path):
  for kind in ('png', 'jpg'):
    path = save(tmp_path / f'a.{kind}', np.full((300, 3000, 3), 90, np.uint8))
    drawing = Album(trained(), tmp_path / 'out', [path])
    row = drawing.draw(path, MAPS, ANSWER)
    assert row['size'] == [300, 3000] and row['drawn'] == [102, 1024]
    left, top, right, bottom = noted[-1][0].box
    np.testing.assert_allclose([right - left, bottom - top], 300 * 0.8 * 102 / 300, atol=0.5)
    assert (left + right) / 2 == pytest.approx(512, abs=2)
    assert drawing.finish(tmp_path / 'sheet.png') == [
      'photographs drawn at reduced size, with 1024 pixels on the longer side: 1'
    ]


def test_the_true_class_is_that_of_the_folder(noted, tmp_path):
  paths = [save(tmp_path / name / 'a.png', noise(9, 9)) for name in ('cat', 'dog', 'bird')]
  drawing = Album(trained(), tmp_path / 'out', paths)
  assert [drawing.draw(path, MAPS, ANSWER)['true_label'] for path in paths] == [0, 1, None]
  assert [told.label for _, _, told, _ in noted] == ['cat', 'dog', None]


def test_a_folder_in_another_unicode_form_is_the_class(noted, tmp_path):
  path = save(tmp_path / 'Mu\u0308cke' / 'a.png', noise(9, 9))
  drawing = Album(trained(['M\u00fccke', 'dog']), tmp_path / 'out', [path])
  assert drawing.draw(path, MAPS, ANSWER)['true_label'] == 0


def test_names_that_no_font_has_are_told_by_number_with_one_line(
  noted, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(album, 'lettering', lambda _: Lettering((), frozenset('猫개')))
  path = save(tmp_path / '猫' / '猫.png', noise(9, 9))
  drawing = Album(trained(['猫', 'dog', '개']), tmp_path / 'out', [path])
  for label, name in ((1, 'dog'), (2, '개')):
    drawing.draw(path, MAPS, Answer(label, name, 0.5))
  assert [told[::2] for _, _, told, _ in noted] == [('dog', 'class 0'), ('class 2', 'class 0')]
  (line,) = capsys.readouterr().err.splitlines()
  assert '2 of 3, such as 猫' in line and 'numbers' in line and 'install' in line


@pytest.mark.parametrize('stem', ['x' * 251, '猫' * 83, 'a' + 'ü' * 125, '$x_1$ [a] {b}'])
def test_names_as_long_as_the_file_system_allows(stem, noted, tmp_path):
  path = save(tmp_path / f'{stem}.png', noise(9, 9))
  row = Album(trained(), tmp_path / 'out', [path]).draw(path, MAPS, ANSWER)
  (name,) = os.listdir(tmp_path / 'out')
  assert row['picture'].endswith(name) and name.endswith('.png')
  assert stem.startswith(name.removeprefix('0001_').removesuffix('.png'))
  assert len(os.fsencode(name)) > 251 or name == f'0001_{stem}.png'


def test_where_names_are_shorter_they_are_cut_there(noted, tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'pathconf', lambda *_: 20)
  path = save(tmp_path / 'a_long_name_of_a_file.png', noise(9, 9))
  row = Album(trained(), tmp_path / 'out', [path]).draw(path, MAPS, ANSWER)
  assert row['picture'].endswith('/0001_a_long_name.png'[:21])


def test_several_photographs_are_on_one_page(tmp_path):
  paths = [save(tmp_path / f'{i}.png', noise(9 + i, 9)) for i in range(3)]
  drawing = Album(trained(), tmp_path / 'out', paths)
  for path in paths:
    drawing.draw(path, MAPS, ANSWER)
  sheet = tmp_path / 'sheet.png'
  assert drawing.finish(sheet) == [f'all images on one page: {sheet}']
  with Image.open(sheet) as page:
    assert page.width > 3 * 160
  assert len(os.listdir(tmp_path / 'out')) == 3


def test_what_cannot_be_read_or_written_is_said_in_a_line(noted, tmp_path):
  path = save(tmp_path / 'a.png', noise(9, 9))
  drawing = Album(trained(), tmp_path / 'out', [path])
  drawing.draw(path, MAPS, ANSWER)
  path.unlink()
  with pytest.raises(UserError, match='No such file'):
    drawing.draw(path, MAPS, ANSWER)
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='cannot be written .*--output'):
    drawing._write(tmp_path / 'file' / 'a.png', b'')


@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA', 'P', '1', 'CMYK'])
def test_images_of_every_mode_are_read_whole(mode, tmp_path):
  path = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
  Image.fromarray(noise(20, 30)).convert(mode).save(path)
  pixels, size = decode.whole(path.read_bytes(), 15, upright=True)
  assert pixels.shape == (10, 15, 3) and pixels.dtype == np.uint8 and size == (20, 30)


def test_the_class_of_an_image_may_be_the_name_of_a_folder_above(tmp_path):
  """Of the folders up to the one that was named, as in a folder of training images."""
  path = tmp_path / 'cat' / 'test' / 'dog' / 'day1' / '1.png'
  classes = {'cat': 0, 'dog': 1}
  assert class_folder(path, [str(path.parents[2])], classes) == 'dog'
  assert class_folder(path, [str(path.parents[1])], classes) == 'dog'
  assert class_folder(path, [str(path.parent)], classes) is None
  assert class_folder(path, [str(path)], classes) is None
  assert class_folder(path.parents[1] / '1.png', [], classes) == 'dog'
