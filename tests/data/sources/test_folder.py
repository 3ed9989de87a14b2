"""A folder of images: layout, splits, formats, sizes, and broken files that are skipped."""

import io
import json
import pathlib
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from attn_flax import data
from attn_flax.data import crops, decode
from attn_flax.data.image_file import BadImage
from attn_flax.data.sources.folder import check, layout
from attn_flax.errors import UserError
from attn_flax.tasks.classification import class_counts


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """The folder in which results of checks are stored."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


def picture(seed, height=40, width=40, channels=3):
  """Smooth random pixels, which lossy formats keep nearly as they are."""
  rng = np.random.default_rng(seed)
  coarse = Image.fromarray(rng.integers(0, 256, (4, 4, channels), np.uint8).squeeze())
  return coarse.resize((width, height), Image.Resampling.BICUBIC)


def make(root, splits, **size):
  """Writes {split: {class: number of images}} as PNG files; returns the root."""
  for split, classes in splits.items():
    for name, count in classes.items():
      (root / split / name).mkdir(parents=True)
      for i in range(count):
        picture(zlib.crc32(f'{split}/{name}/{i}'.encode()), **size).save(
          root / split / name / f'{i}.png'
        )
  return root


def load(root, enlarge=True, **arguments):
  return data.load('folder', data_dir=str(root), enlarge=enlarge, **arguments)


def files_of(records):
  """Paths of a split's files, below the folder of its split."""
  names = [pathlib.Path(records.source.name(i)) for i in range(len(records))]
  return ['/'.join(name.parts[-2:]) for name in names]


# Layout and splits.


def test_folders_of_all_splits(tmp_path):
  counts = {'train': {'b': 4, 'a': 5}, 'val': {'a': 2, 'b': 1}, 'test': {'a': 1, 'b': 3}}
  dataset = load(make(tmp_path, counts), size=128)
  assert dataset.class_names == ('a', 'b') and dataset.spec.num_classes == 2
  assert dataset.spec.splits == {'train': 9, 'validation': 3, 'test': 4}
  train, test = dataset.splits['train'], dataset.splits['test']
  assert train.label.tolist() == [0] * 5 + [1] * 4 and train.label.dtype == np.int32
  assert files_of(test) == ['a/0.png', 'b/0.png', 'b/1.png', 'b/2.png']
  assert dataset.image_shape == (128, 128, 3)
  np.testing.assert_array_equal(class_counts(train.label), [5, 4])


def test_only_what_is_asked_for(tmp_path):
  dataset = load(
    make(tmp_path, {'train': {'a': 5, 'b': 5}, 'val': {'a': 1, 'b': 1}}), splits=['validation']
  )
  assert list(dataset.splits) == ['validation'] and len(dataset.splits['validation']) == 2


def test_class_names_sort_as_people_count(tmp_path):
  names = ['class10', 'class9', 'Class1', 'ä', 'B', 'a', '007', '7', '10']
  make(tmp_path, {'train': dict.fromkeys(names, 1), 'val': dict.fromkeys(names, 1)})
  dataset = load(tmp_path, splits=['validation'])
  expected = ('007', '7', '10', 'a', 'B', 'Class1', 'class9', 'class10', 'ä')
  assert dataset.class_names == expected


def test_missing_splits_are_cut_off_by_a_hash_that_files_keep(tmp_path, capsys):
  make(tmp_path, {'train': {'a': 150, 'b': 150}}, height=8, width=8)
  splits = {split: files_of(part) for split, part in load(tmp_path, size=100).splits.items()}
  assert sum(map(len, splits.values())) == len(set().union(*splits.values())) == 300
  assert all(15 <= len(splits[split]) <= 50 for split in ('validation', 'test'))
  for name in ['0_new.png', 'zzz.png', '75b.png']:
    for label in 'ab':
      picture(0, 8, 8).save(tmp_path / 'train' / label / name)
  (tmp_path / 'train/c').mkdir()
  for i in range(50):
    picture(i, 8, 8).save(tmp_path / 'train/c' / f'{i}.png')
  grown = load(tmp_path, size=100).splits
  for split, names in splits.items():
    assert set(names) <= set(files_of(grown[split]))
  other = load(tmp_path, size=100, seed=1).splits
  assert set(files_of(other['test'])) != set(files_of(grown['test']))
  # Files of the same name in different classes may belong to different splits.
  inside = [name[2:] for name in splits['test'] if name[0] == 'a']
  assert inside != [name[2:] for name in splits['test'] if name[0] == 'b']


def test_only_the_split_that_is_missing_is_cut_off(tmp_path):
  make(tmp_path, {'train': {'a': 60, 'b': 60}, 'val': {'a': 3, 'b': 3}}, height=8, width=8)
  some = load(tmp_path, size=100).splits
  assert len(some['validation']) == 6 and len(some['train']) + len(some['test']) == 120
  for path in (tmp_path / 'val').rglob('*.png'):
    path.unlink()
  for path in sorted((tmp_path / 'val').rglob('*'), reverse=True):
    path.rmdir()
  (tmp_path / 'val').rmdir()
  both = load(tmp_path, size=100).splits
  assert files_of(both['test']) == files_of(some['test'])


def test_the_hash_is_spread_evenly_and_fixed():
  shares = [layout.hash_share(f'a/{i}.png', 0) for i in range(2000)]
  assert 0.08 < np.mean(np.array(shares) < 0.1) < 0.12
  assert 0 <= min(shares) and max(shares) < 1
  # Any other value would move the files of every user to other splits.
  assert layout.hash_share('cats/tom.jpg', 2014) == pytest.approx(0.9240362160847265, abs=1e-12)


def test_what_is_no_image_of_a_class_is_left_alone(tmp_path):
  make(tmp_path, {'train': {'a': 3, 'b': 3}, 'val': {'a': 1, 'b': 1}, 'test': {'a': 1, 'b': 1}})
  (tmp_path / 'train/README.txt').write_text('about the classes')
  (tmp_path / 'train/.hidden').mkdir()
  for name in ['.DS_Store', 'Thumbs.db', 'desktop.ini']:
    (tmp_path / 'train/a' / name).write_text('x')
  (tmp_path / 'train/b/below').mkdir()
  picture(0).save(tmp_path / 'train/b/below/more.png')
  dataset = load(tmp_path)
  assert dataset.class_names == ('a', 'b')
  assert dataset.splits['train'].label.tolist() == [0] * 3 + [1] * 4


# Formats.


def saved(image, file_format, **options):
  buffer = io.BytesIO()
  image.save(buffer, file_format, **options)
  return buffer.getvalue()


def reference(image, size=40):
  """[size, size, 3] uint8."""
  return np.asarray(image.convert('RGB').resize((size, size), Image.Resampling.BILINEAR)).astype(
    int
  )


FORMATS = {
  'jpeg': lambda image: saved(image, 'jpeg', quality=95),
  'progressive jpeg': lambda image: saved(image, 'jpeg', quality=95, progressive=True),
  'png': lambda image: saved(image, 'png'),
  'webp': lambda image: saved(image, 'webp', lossless=True),
  'lossy webp': lambda image: saved(image, 'webp', quality=95),
  'palette png': lambda image: saved(image.quantize(256), 'png'),
  'palette png with one transparent color': lambda image: saved(
    image.quantize(255), 'png', transparency=255
  ),
  'opaque png with alpha': lambda image: saved(image.convert('RGBA'), 'png'),
  'gif': lambda image: saved(image.quantize(256), 'gif'),
  'bmp': lambda image: saved(image, 'bmp'),
  'tiff': lambda image: saved(image, 'tiff'),
}


@pytest.mark.parametrize('kind', FORMATS)
def test_formats_give_the_same_pixels(kind):
  image = picture(1)
  actual = decode.central_crop(FORMATS[kind](image), 40)
  assert actual.shape == (40, 40, 3) and actual.dtype == np.uint8
  assert np.abs(actual - reference(image)).mean() < 6
  assert decode.probe(FORMATS[kind](image)) == (40, 40)


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp', '1 bit', 'with alpha', '16 bits'])
def test_gray_images(kind):
  grey = picture(2, channels=1)
  wide = np.asarray(grey).astype(np.uint16) * 257
  encoded = {
    'jpeg': lambda: saved(grey, 'jpeg', quality=95),
    'png': lambda: saved(grey, 'png'),
    'webp': lambda: saved(grey, 'webp', lossless=True),
    '1 bit': lambda: saved(grey.convert('1', dither=Image.Dither.NONE), 'png'),
    'with alpha': lambda: saved(grey.convert('LA'), 'png'),
    '16 bits': lambda: saved(Image.fromarray(wide), 'png'),
  }[kind]()
  expected = np.asarray(grey).astype(int)[..., None].repeat(3, -1)
  if kind == '1 bit':
    expected = (expected >= 128) * 255
  actual = decode.central_crop(encoded, 40)
  assert np.abs(actual - expected).max() <= (8 if kind == 'jpeg' else 0)


def test_sixteen_bits_are_scaled_not_clipped():
  levels = np.array([[0, 255, 256, 32768], [40000, 65535, 65534, 128]], np.uint16)
  encoded = saved(Image.fromarray(np.kron(levels, np.ones((20, 10), np.uint16))), 'png')
  grey = decode.central_crop(encoded, 40)[10::20, 5::10, 0]
  np.testing.assert_array_equal(grey, np.round(levels / 257).astype(int))


def test_cmyk_jpeg():
  image = picture(3)
  cmyk = saved(image.convert('CMYK'), 'jpeg', quality=95)
  assert Image.open(io.BytesIO(cmyk)).mode == 'CMYK'
  assert np.abs(decode.central_crop(cmyk, 40) - reference(image)).mean() < 6


@pytest.mark.parametrize('kind', ['rgba png', 'palette png', 'webp', 'grey', 'color key'])
def test_what_is_transparent_lies_on_white(kind):
  pixels = np.full((40, 40, 4), (200, 30, 60, 255), np.uint8)
  pixels[:20, :, 3] = 0
  pixels[:20, :, :3] = (1, 2, 3)  # The color of transparent pixels, which must not matter.
  image = Image.fromarray(pixels)
  if kind == 'palette png':
    palette = Image.fromarray((pixels[..., 3] == 0).astype(np.uint8), 'P')
    palette.putpalette([200, 30, 60, 1, 2, 3])
    encoded = saved(palette, 'png', transparency=bytes([255, 0]))
  elif kind == 'grey':
    encoded = saved(image.convert('LA'), 'png')
  elif kind == 'color key':
    encoded = saved(image.convert('RGB'), 'png', transparency=(1, 2, 3))
  else:
    encoded = saved(image, kind.split()[-1], **({'lossless': True} if kind == 'webp' else {}))
  actual = decode.central_crop(encoded, 40)
  assert (actual[:20] == 255).all()
  expected = np.asarray(image.convert('LA'))[30, 0, 0] if kind == 'grey' else (200, 30, 60)
  assert (actual[20:] == expected).all()


def test_half_transparent_is_mixed_with_white():
  pixels = np.full((40, 40, 4), (0, 100, 255, 51), np.uint8)
  actual = decode.central_crop(saved(Image.fromarray(pixels), 'png'), 40)
  assert np.abs(actual.astype(int) - (204, 224, 255)).max() <= 1


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('file_format', ['jpeg', 'png', 'webp'])
def test_images_are_turned_as_exif_says(orientation, file_format):
  image = picture(4, height=60, width=90)
  exif = Image.Exif()
  exif[0x0112] = orientation
  options = {'jpeg': dict(quality=95), 'png': {}, 'webp': dict(lossless=True)}[file_format]
  encoded = saved(image, file_format, exif=exif, **options)
  upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
  assert decode.probe(encoded, upright=True) == upright.size[::-1]
  for turn, expected in [(True, upright), (False, Image.open(io.BytesIO(encoded)))]:
    width, height = expected.size
    left, top = (width - min(expected.size)) / 2, (height - min(expected.size)) / 2
    box = (left, top, width - left, height - top)
    expected = expected.convert('RGB').resize((60, 60), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(decode.central_crop(encoded, 60, upright=turn), expected)
    draws = np.tile([0.3, 0.6, 0.2, 0.7], (crops.TRIES, 1))
    left, top, right, bottom = crops.crop_box(width, height, draws)
    whole = upright if turn else Image.open(io.BytesIO(encoded))
    crop = whole.convert('RGB').crop((left, top, right, bottom))
    expected = crop.resize((20, 20), Image.Resampling.BILINEAR)
    actual = decode.random_crop(encoded, 20, draws, upright=turn)
    assert np.abs(actual.astype(int) - np.asarray(expected)).mean() < 1.5


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_broken_exif_turns_nothing():
  image = picture(5)
  encoded = saved(image, 'jpeg', quality=95, exif=b'Exif\x00\x00II*\x00\xff\xff\xff\x7f')
  np.testing.assert_array_equal(
    decode.central_crop(encoded, 40, upright=True), decode.central_crop(encoded, 40)
  )


# Size.


@pytest.mark.parametrize(
  ('shape', 'size', 'in_memory'),
  [
    ((32, 32), 32, True),
    ((28, 28), 28, True),
    ((30, 45), 32, True),
    ((80, 70), 64, True),
    ((180, 130), 224, False),
    ((300, 300), 224, False),
  ],
)
def test_the_size_that_suits(tmp_path, shape, size, in_memory, capsys):
  counts = {'train': {'a': 3, 'b': 3}, 'val': {'a': 1, 'b': 1}, 'test': {'a': 1, 'b': 1}}
  dataset = load(make(tmp_path, counts, height=shape[0], width=shape[1]))
  assert dataset.image_shape == (size, size, 3)
  assert all(isinstance(part, data.Split) == in_memory for part in dataset.splits.values())
  assert dataset.spec.crop_padding == (size // 8 if in_memory else 0)
  # The size does not depend on which splits are read.
  assert load(tmp_path, splits=['test']).image_shape == dataset.image_shape
  warned = 'are smaller than' in capsys.readouterr().err
  assert warned == (min(shape) < size)


def test_small_images_are_decoded_once_to_one_size(tmp_path):
  counts = {'train': {'a': 3, 'b': 3}, 'val': {'a': 1, 'b': 1}, 'test': {'a': 1, 'b': 1}}
  make(tmp_path, counts, height=50, width=70)
  dataset = load(tmp_path, size=48)
  image = Image.open(tmp_path / 'train/a/2.png')
  expected = image.resize((67, 48), Image.Resampling.BILINEAR)
  left = round((67 - 48) / 2)
  train = dataset.splits['train']
  difference = train.image[2].astype(int) - np.asarray(expected)[:, left : left + 48]
  assert np.abs(difference).max() <= 1 and (difference == 0).mean() > 0.98


def test_images_smaller_than_the_crop_are_refused_or_enlarged_with_a_warning(tmp_path, capsys):
  counts = {'train': {'a': 3, 'b': 3}, 'val': {'a': 1, 'b': 1}, 'test': {'a': 1, 'b': 1}}
  make(tmp_path, counts, height=150, width=150)
  picture(0, 20, 90).save(tmp_path / 'train/a/1.png')
  with pytest.raises(
    UserError, match='1 of 10 images is smaller than 128.*data.size=20.*enlarge=True'
  ):
    load(tmp_path, size=128, enlarge=False)
  dataset = load(tmp_path, size=128)
  line, found = capsys.readouterr().err.splitlines()
  assert found.startswith(f'{tmp_path}: 2 classes')
  assert line.startswith('warning: 1 of 10 images is smaller than 128 pixels')
  assert f'{tmp_path}/train/a/1.png (90 x 20)' in line and '--config.data.size' in line
  assert dataset.splits['train'].take([1]).image.shape == (1, 128, 128, 3)
  batch = dataset.splits['train'].train_batch([0, 1], np.full((2, crops.TRIES, 4), 0.5))
  assert batch.image.shape == (2, 128, 128, 3)


# Broken files.


def spoil(root, name, how):
  path = root / name
  content = path.read_bytes()
  path.write_bytes(
    {
      'empty': b'',
      'truncated': content[: len(content) // 2],
      'no image': b'These are the classes.\n' * 30,
      'damaged': content[:41] + bytes(60) + content[101:],
    }[how]
  )


@pytest.fixture
def whole(tmp_path):
  """A folder without broken files."""
  counts = {'train': {'a': 4, 'b': 4}, 'val': {'a': 2, 'b': 2}, 'test': {'a': 2, 'b': 2}}
  return make(tmp_path / 'images', counts)


REASONS = {
  'empty': 'it is empty',
  'truncated': 'truncated',
  'no image': 'it is not an image of a known format',
  'damaged': '',
}


@pytest.mark.parametrize('how', REASONS)
def test_broken_images_are_named_counted_and_passed_over(whole, how, capsys):
  spoil(whole, 'train/a/1.png', how)
  spoil(whole, 'val/b/0.png', how)
  for max_bad in (0, 1):
    with pytest.raises(UserError) as caught:
      load(whole, max_bad=max_bad)
    text = str(caught.value)
    assert text.startswith('2 of 16 images cannot be used') and '\n' not in text
    assert f'{whole}/train/a/1.png: ' in text and f'{whole}/val/b/0.png: ' in text
    assert REASONS[how] in text and '--config.data.max_bad=2' in text
  assert capsys.readouterr().err == ''

  dataset = load(whole, max_bad=2, size=100)
  error = capsys.readouterr().err
  assert f'skipped {whole}/train/a/1.png: ' in error
  assert 'skipped 2 broken images of 16' in error
  assert dataset.spec.splits == {'train': 7, 'validation': 3, 'test': 4}
  assert files_of(dataset.splits['train'])[:3] == ['a/0.png', 'a/2.png', 'a/3.png']
  dataset.splits['train'].take(range(7))
  # Broken files of other splits do not matter.
  assert len(load(whole, splits=['test']).splits['test']) == 4


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('share', [0.03, 0.5, 0.97])
def test_what_is_cut_short_is_found_before_the_training(kind, share):
  """The check decodes images at a reduced size, but accepts no file that training refuses."""
  content = FORMATS[kind](picture(6, height=300, width=400))
  encoded = content[: int(share * len(content))]
  draws = np.tile([0.9, 0.5, 0.5, 0.5], (crops.TRIES, 1))
  for call in (
    lambda: decode.probe(encoded, upright=True),
    lambda: decode.central_crop(encoded, 40, upright=True),
    lambda: decode.random_crop(encoded, 40, draws, upright=True),
  ):
    with pytest.raises(BadImage) as caught:
      call()
    assert str(caught.value) and '\n' not in str(caught.value)


def test_many_broken_images_make_one_short_line(tmp_path):
  make(tmp_path, {'train': {'a': 30, 'b': 30}}, height=8, width=8)
  for path in (tmp_path / 'train/a').iterdir():
    path.write_bytes(b'')
  with pytest.raises(UserError, match='30 of 60 images.*and 25 more') as caught:
    load(tmp_path)
  assert len(str(caught.value)) < 1000


def test_a_text_file_among_the_images_counts(whole):
  (whole / 'train/a/labels.txt').write_text('a')
  with pytest.raises(UserError, match='1 of 17 images.*labels.txt: it is not an image'):
    load(whole)


def test_a_file_that_breaks_later_is_named(whole):
  dataset = load(whole, size=100)
  spoil(whole, 'train/a/1.png', 'truncated')
  with pytest.raises(UserError, match=r'train/a/1\.png cannot be used: .*truncated'):
    dataset.splits['train'].take([0, 1])
  (whole / 'train/a/1.png').unlink()
  with pytest.raises(UserError, match=r"cannot read '.*train/a/1\.png': No such file"):
    dataset.splits['train'].train_batch([1], np.zeros((1, crops.TRIES, 4)))


def test_what_was_found_out_is_remembered(whole, cache, monkeypatch):
  monkeypatch.setattr(check, '_WORTH_KEEPING_S', -1)
  spoil(whole, 'train/a/1.png', 'truncated')
  load(whole, max_bad=1)
  (store,) = (cache / 'attn_flax').iterdir()
  assert len(json.loads(store.read_text())) == 16

  decoded = []
  probe = decode.probe
  monkeypatch.setattr(decode, 'probe', lambda *a, **k: decoded.append(1) or probe(*a, **k))
  load(whole, max_bad=1)
  with pytest.raises(UserError, match='1 of 16'):
    load(whole)
  assert not decoded
  picture(9, 44, 44).save(whole / 'train/a/1.png')  # Repaired.
  (whole / 'train/a/5.png').write_bytes((whole / 'train/a/1.png').read_bytes())
  assert len(load(whole).splits['train']) == 9
  assert len(decoded) == 2
  store.write_text('{"cut short')
  assert len(load(whole).splits['train']) == 9


def test_a_cache_that_cannot_be_written_is_done_without(whole, tmp_path, monkeypatch):
  monkeypatch.setattr(check, '_WORTH_KEEPING_S', -1)
  (tmp_path / 'file').touch()
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  assert len(load(whole).splits['train']) == 8


def test_quick_checks_are_not_kept(whole, cache):
  load(whole)
  assert not cache.exists()
