"""Hostile files: pipes, devices, programs in images, and malformed images."""

import io
import os
import pathlib
import pickle
import re
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from attn_flax import files
from attn_flax.commands.images import find_images
from attn_flax.data import decode
from attn_flax.data.image_file import FORMATS, MAX_PIXELS, MOST_PIXELS, BadImage, TooLarge
from attn_flax.data.sources.folder import check
from attn_flax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
EPS = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n%%EOF'


def encoded(form, side=24):
  pixels = np.random.default_rng(1).integers(0, 255, (side, side, 3), dtype=np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, form)
  return file.getvalue()


def test_the_readme_names_the_formats():
  text = ' '.join((ROOT / 'README.md').read_text().split())
  (named,) = re.findall(r'A folder may hold (.*?) images', text)
  known = {name.upper() for name in re.split(r', | and ', named)}
  assert known == set(FORMATS)


def test_no_program_is_run_for_postscript(tmp_path, monkeypatch):
  """Pillow would run `gs` from the user's PATH on the file."""
  gs = tmp_path / 'gs'
  gs.write_text(f'#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n')
  gs.chmod(0o755)
  monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  for read in (decode.probe, lambda content: decode.central_crop(content, 8)):
    with pytest.raises(BadImage, match='not an image of a known format'):
      read(EPS)
  assert not (tmp_path / 'ran').exists()


@pytest.fixture
def special(tmp_path):
  """A folder with a picture, a pipe, a link to an endless device and a broken link."""
  (tmp_path / 'a.png').write_bytes(encoded('PNG'))
  os.mkfifo(tmp_path / 'pipe.png')
  (tmp_path / 'zero.png').symlink_to('/dev/zero')
  (tmp_path / 'gone.png').symlink_to(tmp_path / 'nothing')
  (tmp_path / 'link.png').symlink_to(tmp_path / 'a.png')
  return tmp_path


@pytest.mark.parametrize('name', ['pipe.png', 'zero.png', 'gone.png', '.'])
def test_what_is_no_file_is_never_read(name, special):
  began = time.monotonic()
  with pytest.raises(OSError):
    files.read_file(special / name)
  if name != '.':
    with pytest.raises(UserError, match='(not a regular file|does not exist); name image files'):
      find_images([str(special / name)])
    reason = check.check(special, [name], MAX_PIXELS)[name].reason
    assert reason.startswith('it cannot be read')
  assert time.monotonic() - began < 2


def test_a_folder_is_searched_past_them_and_they_are_named(special, capsys):
  found = find_images([str(special)])
  assert [path.name for path in found] == ['a.png', 'link.png']
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 3 and all('is left out' in line for line in lines)


def test_a_file_is_read_up_to_a_size(tmp_path, monkeypatch):
  (tmp_path / 'a').write_bytes(b'12345')
  assert files.read_file(tmp_path / 'a') == b'12345'
  monkeypatch.setattr(files, 'MOST_BYTES', 4)
  with pytest.raises(OSError, match='5 bytes, more than the limit of 4'):
    files.read_file(tmp_path / 'a')


def test_an_image_has_up_to_so_many_pixels(tmp_path):
  (tmp_path / 'a.png').write_bytes(encoded('PNG', 24))
  assert check.check(tmp_path, ['a.png'], 24 * 24)['a.png'][:3] == (24, 24, '')
  found = check.check(tmp_path, ['a.png'], 24 * 24 - 1)['a.png']
  assert found.reason == 'it has 24 x 24 pixels, more than data.max_pixels=575 allows'


def test_a_higher_limit_is_asked_for_again(tmp_path, monkeypatch):
  """What is remembered of an image that was too large is its size."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(check, '_WORTH_KEEPING_S', -1)
  (tmp_path / 'a.png').write_bytes(encoded('PNG', 24))
  whole = check.check(tmp_path, ['a.png'], 24 * 24)['a.png']
  for _ in range(2):
    assert 'more than' in check.check(tmp_path, ['a.png'], 9)['a.png'].reason
    assert check.check(tmp_path, ['a.png'], 24 * 24)['a.png'] == whole


@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'BMP', 'PPM', 'GIF'])
def test_the_limit_is_that_of_the_data_and_not_of_pillow(form, monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  content = encoded(form, 24)
  assert decode.probe(content, max_pixels=24 * 24) == (24, 24)
  assert decode.central_crop(content, 8, max_pixels=24 * 24).shape == (8, 8, 3)
  assert decode.whole(content, 12, max_pixels=24 * 24)[1] == (24, 24)
  with pytest.raises(
    TooLarge, match='24 x 24 pixels, more than data.max_pixels=575 allows'
  ) as found:
    decode.central_crop(content, 8, max_pixels=24 * 24 - 1)
  assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)


@pytest.mark.parametrize('form', ['WEBP', 'TIFF'])
def test_a_decoder_with_a_limit_of_its_own_is_named(form, monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  with pytest.raises(
    BadImage, match='pixels of such a file; make it smaller, or convert it to PNG'
  ):
    decode.probe(encoded(form, 24))


def chunk(kind, content):
  crc = struct.pack('>I', zlib.crc32(kind + content))
  return struct.pack('>I', len(content)) + kind + content + crc


def headers():
  """Files whose headers tell of 10^10 pixels, or of as many as their format can have."""
  side = 100_000
  png = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)) + chunk(b'IDAT', b'x')
  gif = bytearray(encoded('GIF', 24))
  gif[6:10] = b'\xff' * 4
  jpeg = bytearray(encoded('JPEG', 24))
  start = jpeg.index(b'\xff\xc0') + 5
  jpeg[start : start + 4] = struct.pack('>HH', 65_500, 65_500)
  bmp = bytearray(encoded('BMP', 24))
  bmp[18:26] = struct.pack('<ii', side, side)
  return {
    'PNG': b'\x89PNG\r\n\x1a\n' + png,
    'GIF': bytes(gif),
    'JPEG': bytes(jpeg),
    'BMP': bytes(bmp),
    'PPM': f'P6 {side} {side} 255\n'.encode() + b'x' * 99,
  }


@pytest.mark.parametrize('form', headers())
def test_pixels_that_a_header_promises_take_no_memory(form):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for read in (decode.probe, lambda content, **limit: decode.central_crop(content, 8, **limit)):
    with pytest.raises(TooLarge, match=f'more than data.max_pixels={MOST_PIXELS} allows'):
      read(headers()[form], max_pixels=MOST_PIXELS)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # In KiB.


def broken(content, rng):
  """A file's content, cut, overwritten, swapped or extended."""
  kind = rng.integers(5)
  data = bytearray(content)
  if kind == 0:
    return kind, bytes(data[: rng.integers(len(data))])
  if kind == 1:
    for _ in range(rng.integers(1, 20)):
      data[rng.integers(len(data))] = rng.integers(256)
  elif kind == 2:  # The sizes of headers are among these.
    for i in rng.integers(4, 32, 6):
      data[i] = 0xFF
  elif kind == 3:
    start, stop = sorted(rng.integers(0, len(data), 2))
    del data[start:stop]
  else:
    data = bytearray(rng.integers(0, 256, 300, dtype=np.uint8)) + data
  return kind, bytes(data)


@pytest.mark.filterwarnings('ignore')  # Pillow warns about such files.
def test_two_hundred_malformed_images_are_decoded_or_named():
  """Each quickly, with a one-line reason, and without any other exception."""
  rng = np.random.default_rng(0)
  forms = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'PPM', 'TIFF')
  outcomes = {'decoded': 0, 'named': 0}
  for trial in range(210):
    _, content = broken(encoded(forms[trial % len(forms)]), rng)
    began = time.monotonic()
    try:
      pixels = decode.central_crop(content, 16, upright=True)
      assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
      outcomes['decoded'] += 1
    except BadImage as error:
      assert str(error) and '\n' not in str(error)
      outcomes['named'] += 1
    assert time.monotonic() - began < 2, (trial, forms[trial % len(forms)])
  assert outcomes['decoded'] > 20 and outcomes['named'] > 80, outcomes
