"""Malformed images of every format: each is decoded, or is a `BadImage` whose line gives a reason.

They are made from whole images by a random change. They are given to the library's functions, and
put into the class folders of a dataset, where an error names the file.
"""

import io
import random
import resource
import sys

import drawn
import numpy as np
import pytest
from PIL import Image

from attn_flax import UserError
from attn_flax.data import crops, decode, load
from attn_flax.data.image_file import BadImage
from attn_flax.data.records import Records
from attn_flax.data.sources.folder.listing import is_system

COUNT = 210
SECONDS = 20  # For one image.
MODES = {
  'jpeg': ('RGB', 'L', 'CMYK'),
  'png': ('RGB', 'L', 'LA', 'P', 'RGBA', 'I;16', '1'),
  'webp': ('RGB', 'RGBA'),
  'bmp': ('RGB', 'L', '1'),
  'gif': ('P', 'L'),
  'ppm': ('RGB', 'L'),
  'tiff': ('RGB', 'L', 'CMYK', 'I;16', 'RGBA', 'F'),
}
ENDINGS = {'jpeg': '.jpg'}
CHANGES = (
  *('none', 'cut', 'a bit', 'a byte of the head', 'a number of the head', 'overwritten'),
  *('moved', 'doubled', 'removed', 'noise', 'empty', 'another head'),
)


def whole(kind, mode, rng):
  """The content of a proper image file."""
  height, width = rng.randrange(1, 60), rng.randrange(1, 60)
  pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (height, width, 4))
  channels = {'RGB': 3, 'CMYK': 4, 'RGBA': 4, 'LA': 2}.get(mode)
  if mode in ('I;16', 'F'):
    image = Image.fromarray(pixels[..., 0].astype('uint16' if mode == 'I;16' else 'float32'))
  elif channels:
    image = Image.fromarray(pixels[..., :channels].astype('uint8'), mode=mode)
  else:
    image = Image.fromarray(pixels[..., 0].astype('uint8')).convert(mode)
  buffer = io.BytesIO()
  exif = {}
  if kind in ('jpeg', 'png', 'webp') and rng.random() < 0.5:
    data = Image.Exif()
    data[0x0112] = rng.randrange(0, 10)  # The orientation; 0 and 9 are not valid.
    exif = {'exif': data}
  image.save(buffer, format=kind, **exif)
  return buffer.getvalue()


def changed(content, change, rng):
  """Content in which something is wrong."""
  broken = bytearray(content)
  begin, length = rng.randrange(len(broken)), rng.randrange(1, 64)
  head = rng.randrange(min(len(broken), 96))
  if change == 'cut':
    del broken[begin:]
  elif change == 'a bit':
    broken[begin] ^= 1 << rng.randrange(8)
  elif change == 'a byte of the head':
    broken[head] = rng.randrange(256)
  elif change == 'a number of the head':  # Headers store widths, lengths and offsets like this.
    number = rng.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1])
    size = 2 if number < 2**16 and rng.random() < 0.5 else 4
    broken[head : head + size] = number.to_bytes(size, rng.choice(['little', 'big']))
  elif change == 'overwritten':
    broken[begin : begin + length] = rng.randbytes(length)
  elif change == 'moved':
    broken = broken[begin:] + broken[:begin]
  elif change == 'doubled':
    broken[begin:begin] = broken[max(begin - length, 0) : begin]
  elif change == 'removed':
    del broken[begin : begin + length]
  elif change == 'noise':
    broken = bytearray(rng.randbytes(len(broken)))
  elif change == 'empty':
    broken = bytearray()
  elif change == 'another head':
    broken[:8] = rng.choice([b'%!PS-Ado', b'\x89PNG\r\n\x1a\n', b'GIF89a\0\0', b'II*\0\x08\0\0\0'])
  return bytes(broken)


def malformed():
  """(what it is, its ending, its content), the same in every run."""
  rng = random.Random(0)
  for index in range(COUNT):
    kind = [*MODES][index % len(MODES)]
    mode = rng.choice(MODES[kind])
    change = CHANGES[index % len(CHANGES)]
    content = changed(whole(kind, mode, rng), change, rng)
    yield f'{index}: {kind} {mode}, {change}', ENDINGS.get(kind, f'.{kind}'), content


def fault(content, rng):
  """What is wrong with the results of all decoders, '' if nothing; and what they were."""
  upright = rng.random() < 0.5
  draws = np.random.default_rng(0).random((crops.TRIES, 4))
  calls = (
    lambda: decode.probe(content, upright=upright),
    lambda: decode.central_crop(content, 16, upright=upright),
    lambda: decode.central_crop(content, 16, resize=20),
    lambda: decode.random_crop(content, 16, draws, upright=upright),
    lambda: decode.central_mask(content, 16),
  )
  answer = 'decoded'
  for call in calls:
    try:
      with drawn.deadline(SECONDS):
        found = call()
    except BadImage as error:
      answer = 'refused'
      if not str(error) or '\n' in str(error):
        return repr(str(error)), answer
    except drawn.Overdue as overdue:
      return str(overdue), 'overdue'
    except Exception as error:
      return f'{type(error).__name__}: {error}', 'traceback'
    else:
      shape = np.shape(found)
      if shape not in ((2,), (16, 16, 3), (16, 16)):
        return f'{shape}', answer
  return '', answer


@pytest.fixture
def little_memory():
  """Limits memory: a number in a header must not decide how much of it a decoder takes."""
  if sys.platform != 'linux':
    pytest.skip('the limit of the address space is that of Linux')
  before = resource.getrlimit(resource.RLIMIT_AS)
  with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_AS, before)


def test_malformed_images_are_decoded_or_refused(little_memory, capsys):
  rng = random.Random(1)
  answers = [(name, *fault(content, rng)) for name, _, content in malformed()]
  counts = drawn.answered(answers, 'malformed images', capsys)
  assert counts['decoded'] > 20 and counts['refused'] > 100


def test_a_folder_of_malformed_images_is_refused_by_name(tmp_path, capfd):
  """With `max_bad` the folder is used without them: all images that its check passes decode."""
  for split in ('train', 'val', 'test'):
    for label in 'ab':
      place = tmp_path / split / label
      place.mkdir(parents=True)
      for index in range(4):
        Image.new('RGB', (20, 20), (index, 0, 0)).save(place / f'good{index}.png')
  names = []
  for index, (_, ending, content) in enumerate(malformed()):
    names.append(f'{index}{ending}')
    (tmp_path / 'train' / 'ab'[index % 2] / names[-1]).write_bytes(content)
  assert not any(map(is_system, names))
  with pytest.raises(UserError) as caught:
    load('folder', data_dir=str(tmp_path), size=16)
  line = str(caught.value)
  assert '\n' not in line and any(name in line for name in names) and 'data.max_bad' in line
  dataset = load('folder', data_dir=str(tmp_path), size=16, max_bad=COUNT, enlarge=True)
  train = dataset.splits['train']
  assert 8 < len(train) < 8 + COUNT - 100
  images = train.take(range(len(train))).image if isinstance(train, Records) else train.image
  assert images.shape == (len(train), 16, 16, 3)
