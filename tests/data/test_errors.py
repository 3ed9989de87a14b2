"""Mistakes of users with data: each is reported in one line that names the fix."""

import errno
import os
import pathlib
import re

import numpy as np
import pytest
from fake_catalog import catalog, encode

from attn_flax import data
from attn_flax.commands import command_line
from attn_flax.data.sources.cluttered_digits import build
from attn_flax.data.sources.tfds import cifar, storage
from attn_flax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def put(root, *names):
  """Writes images of noise; returns the root."""
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)))
  return root


def refused(match, **arguments):
  """The one-line error of `data.load`, which must match."""
  with pytest.raises(UserError, match=match) as caught:
    data.load(**arguments)
  text = str(caught.value)
  assert '\n' not in text and len(text) < 500
  return text


# The folder of a user.


def test_no_folder_at_all(tmp_path):
  refused(r'name=folder needs --config\.data\.dir=', name='folder')
  missing = str(tmp_path / 'missing')
  refused(f"'{missing}' does not exist.*--config.data.dir", name='folder', data_dir=missing)
  file = tmp_path / 'file'
  file.touch()
  refused(f"'{file}' is not a folder", name='folder', data_dir=str(file))


def test_an_empty_folder(tmp_path):
  refused(r'no folder train \(it holds nothing\)', name='folder', data_dir=str(tmp_path))
  (tmp_path / 'train').mkdir()
  refused("train' holds no folders of classes", name='folder', data_dir=str(tmp_path))
  for name in 'ab':
    (tmp_path / 'train' / name).mkdir()
  refused(
    r"the train split .* has no images of 2 of 2 classes \('a', 'b'\): add some",
    name='folder',
    data_dir=str(tmp_path),
  )


def test_classes_without_the_folder_train(tmp_path):
  put(tmp_path, 'cats/1.png', 'dogs/1.png')
  refused(
    r'no folder train \(it holds cats, dogs\).*train/<class>/',
    name='folder',
    data_dir=str(tmp_path),
  )


def test_one_class(tmp_path):
  put(tmp_path, 'train/cats/1.png')
  refused("holds one class, 'cats': .* at least two", name='folder', data_dir=str(tmp_path))


@pytest.mark.parametrize('split', ['val', 'validation', 'test'])
def test_a_split_without_images(tmp_path, split):
  """A split without images of one class is used with a warning; an empty one is an error."""
  put(tmp_path, 'train/cats/1.png', 'train/dogs/1.png')
  (tmp_path / split / 'dogs').mkdir(parents=True)
  name = 'test' if split == 'test' else 'validation'
  arguments = dict(name='folder', data_dir=str(tmp_path), splits=[name])
  message = rf"the {name} split .* has no images of 2 of 2 classes \('cats', 'dogs'\): add some, or"
  refused(message, **arguments)
  (tmp_path / split / 'dogs/1.png').touch()
  refused('1 of 1 images cannot be used', **arguments)
  refused(message, max_bad=1, **arguments)


def test_a_class_without_training_images(tmp_path):
  put(tmp_path, 'train/cats/1.png', 'train/dogs/1.png', 'val/cats/1.png', 'test/cats/1.png')
  (tmp_path / 'train/foxes').mkdir()
  arguments = dict(name='folder', data_dir=str(tmp_path))
  refused(r"the train split .* has no images of 1 of 3 classes \('foxes'\): add some", **arguments)
  (tmp_path / 'train/foxes/1.png').touch()
  refused(r"the train split .* has no images of .* \('foxes'\)", max_bad=1, **arguments)


def test_a_class_that_train_lacks(tmp_path):
  put(tmp_path, 'train/cats/1.png', 'train/dogs/1.png', 'val/cats/1.png', 'val/dgos/1.png')
  refused(
    "val' has a class 'dgos' that train lacks; did you mean 'dogs'",
    name='folder',
    data_dir=str(tmp_path),
  )


def test_a_split_without_classes_and_a_split_twice(tmp_path):
  put(tmp_path, 'train/cats/1.png', 'train/dogs/1.png', 'val/1.png')
  refused("val' holds no folders of classes: sort", name='folder', data_dir=str(tmp_path))
  put(tmp_path, 'validation/cats/1.png')
  refused('holds both val and validation: keep one', name='folder', data_dir=str(tmp_path))


def test_too_few_images_to_split(tmp_path, capsys):
  # By their hashes both belong to the training split.
  put(tmp_path, 'train/cats/1.png', 'train/dogs/1.png')
  arguments = dict(data_dir=str(tmp_path), splits=['validation'])
  refused('too few images to cut a validation split off', name='folder', **arguments)


def test_a_class_that_chance_leaves_out_is_only_told(tmp_path, capsys):
  put(tmp_path, *(f'train/cats/{i}.png' for i in range(60)), 'train/dogs/1.png')
  dataset = data.load('folder', data_dir=str(tmp_path))
  assert len(dataset.splits['validation']) > 0
  *lines, found = capsys.readouterr().err.splitlines()
  assert found.startswith(f'{tmp_path}: 2 classes')
  assert [line.split(',')[0] for line in lines] == [
    'warning: the validation split',
    'warning: the test split',
  ]
  assert all("has no images of 1 of 2 classes ('dogs')" in line for line in lines)


def test_annotations_and_splits_of_a_folder(tmp_path):
  refused("'folder' has no masks", name='folder', data_dir=str(tmp_path), annotations=True)
  refused(
    "split of folder 'val'.*validation", name='folder', data_dir=str(tmp_path), splits=['val']
  )


def test_an_error_stands_alone(tmp_path, capsys):
  """Warnings about empty classes and skipped files are not printed before an error."""
  put(tmp_path, *(f'train/cats/{i}.png' for i in range(60)), 'train/dogs/1.png')
  (tmp_path / 'test/cats').mkdir(parents=True)
  arguments = dict(name='folder', data_dir=str(tmp_path))
  refused("the test split .* has no images of 2 of 2 classes \\('cats', 'dogs'\\)", **arguments)
  put(tmp_path, 'test/cats/1.png', 'test/dogs/1.png')
  (tmp_path / 'train/dogs/1.png').write_bytes(b'')
  refused("the train split .* has no images of .* \\('dogs'\\)", max_bad=1, **arguments)
  (tmp_path / 'train/cats/5.png').write_bytes(b'')
  refused('2 of 63 images cannot be used', splits=['validation', 'train', 'test'], **arguments)
  assert capsys.readouterr().err == ''


# ImageNet's class folders.


@pytest.fixture
def three_classes(monkeypatch):
  """ImageNet as if it had three classes."""
  import dataclasses

  spec = dataclasses.replace(data.DATASETS['imagenet2012'], num_classes=3)
  monkeypatch.setitem(data.DATASETS, 'imagenet2012', spec)


WNIDS = ['n01440764', 'n01443537', 'n02084071']


def test_imagenet_from_class_folders(tmp_path, three_classes, capsys):
  put(tmp_path, *(f'train/{wnid}/{wnid}_{i}.JPEG' for wnid in WNIDS for i in range(100)))
  put(tmp_path, *(f'val/{wnid}/ILSVRC2012_val_{i}.JPEG' for wnid in WNIDS for i in range(2)))
  dataset = data.load('imagenet2012', data_dir=str(tmp_path))
  assert dataset.class_names == tuple(WNIDS)
  sizes = {split: len(part) for split, part in dataset.splits.items()}
  assert sizes == dataset.spec.splits and sizes['test'] == 6
  assert sizes['train'] + sizes['validation'] == 300 and 0 < sizes['validation'] < 12
  test = dataset.splits['test']
  assert test.label.tolist() == [0, 0, 1, 1, 2, 2] and '/val/' in test.source.name(0)
  assert '/train/' in dataset.splits['validation'].source.name(0)
  assert not test.upright and test.resize == 256
  assert f'{tmp_path}: 3 classes; images: train ' in (err := capsys.readouterr().err)
  assert '(cut off from train/), test 6 (val/); 224 x 224 pixels; skipped: nothing' in err


def test_imagenet_that_is_not_whole(tmp_path, three_classes):
  put(tmp_path, *(f'train/{wnid}/1.JPEG' for wnid in WNIDS[:2]))
  arguments = dict(name='imagenet2012', data_dir=str(tmp_path))
  refused('has no folder val: add it, the test split', **arguments)
  put(tmp_path, 'val/ILSVRC2012_val_00000001.JPEG')
  refused("val' holds no folders of classes: sort", **arguments)
  put(tmp_path, *(f'val/{wnid}/1.JPEG' for wnid in WNIDS[:2]))
  refused('has 3 classes and .* holds 2: .*--config.data.name=folder', **arguments)
  put(tmp_path, f'train/{WNIDS[2]}/1.JPEG')
  refused(
    r"the test split .* no images of 1 of 3 classes \('n02084071'\)", splits=['test'], **arguments
  )
  put(tmp_path, f'val/{WNIDS[2]}/1.JPEG')
  (tmp_path / f'val/{WNIDS[2]}/1.JPEG').write_bytes(b'no image')
  dataset = data.load(splits=['test'], **arguments)
  with pytest.raises(UserError, match='val/n02084071/1.JPEG cannot be used'):
    dataset.splits['test'].take(range(3))


def test_imagenet_that_is_not_there(tmp_path):
  refused('attn_flax.data.prepare imagenet2012', name='imagenet2012', data_dir=str(tmp_path))


# Disks.


FULL = os.strerror(errno.ENOSPC)
# Errors that writers raise on a full disk: Python's, those in C++, and the library's.
OUT_OF_SPACE = [
  OSError(errno.ENOSPC, FULL),
  OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
  RuntimeError(f'Failed to finalize writing of split "train": write() failed: {FULL}; ...'),
  OSError('Not enough disk space. Needed: 170 MiB (download: 160 MiB, generated: 10 MiB)'),
]


@pytest.mark.parametrize('error', OUT_OF_SPACE, ids=str)
@pytest.mark.parametrize('name', ['cluttered_digits', 'cifar10'])
def test_a_full_disk(tmp_path, monkeypatch, name, error):
  def fail(*_):
    raise error

  if name == 'cifar10':
    monkeypatch.setattr(cifar, '_download_and_prepare', fail)
  else:
    monkeypatch.setattr(build, '_write', fail)
  refused(
    rf"no space is left on the disk for '{tmp_path}/{name}': .*--config\.data\.dir=.*TFDS_DATA_DIR",
    name=name,
    data_dir=str(tmp_path),
    download=True,
  )


@pytest.mark.parametrize('name', ['cluttered_digits', 'cifar10'])
def test_a_folder_that_cannot_be_written_to(tmp_path, name):
  file = tmp_path / 'file'
  file.touch()
  refused(
    rf"cannot write the dataset to '{file}/{name}' \(Not a directory\): .*--config\.data\.dir=",
    name=name,
    data_dir=str(file),
    download=True,
  )


@pytest.mark.parametrize('number', [errno.EACCES, errno.EROFS])
def test_a_folder_without_permission(tmp_path, monkeypatch, number):
  def fail(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(build, '_write', fail)
  arguments = dict(name='cluttered_digits', data_dir=str(tmp_path))
  refused(rf'cannot write the dataset .*\({os.strerror(number)}\)', **arguments)


def test_other_errors_keep_their_traceback(tmp_path):
  for error in (OSError(errno.EIO, 'broken'), RuntimeError('a bug')):
    with pytest.raises(type(error), match='broken|a bug'), storage.explained(tmp_path):
      raise error


# On the command line.


WHOLE = [f'{split}/{name}/{i}.png' for split in ('train', 'val') for name in 'ab' for i in range(3)]
# The files of the folder, the new content of one of them, and the error.
FOLDERS = {
  'no folder': (None, None, "images' does not exist: name the folder .* --config.data.dir"),
  'empty folder': ([], None, r'has no folder train \(it holds nothing\): .*train/<class>/'),
  'one class': (['train/a/1.png'], None, "one class, 'a': a classifier needs at least two"),
  'class missing in train': (
    [*WHOLE[:3], *WHOLE[6:]],
    None,
    "one class, 'a': a classifier needs at least two",
  ),
  'unknown class in val': ([*WHOLE, 'val/B/1.png'], None, "'B' that train lacks; did you mean 'b'"),
  'empty file': (WHOLE, lambda file: b'', r'1 of 12 .*train/a/1.png: it is empty\): .*max_bad=1'),
  'truncated': (WHOLE, lambda file: file[:2000], r'a/1.png: .*truncated.*\): .*max_bad=1'),
  'no image': (WHOLE, lambda file: b'words', r'a/1.png: it is not an image of a known .*max_bad=1'),
}


def test_an_image_smaller_than_the_crop_ends_the_command(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  put(tmp_path / 'images', *WHOLE)
  err = answer(capsys, f'--config.data.dir={tmp_path}/images', '--config.data.size=500')
  assert '12 of 12 images are smaller than 500 pixels' in err and 'data.enlarge=True' in err
  assert not (tmp_path / 'runs').exists()


def answer(capsys, *arguments):
  """The one-line error of a command, whose exit code must be that of a mistake."""
  assert (
    command_line.run(['main.py', f'--config={ROOT}/configs/eca.py:folder,smoke', *arguments]) == 2
  )
  err = capsys.readouterr().err
  assert re.fullmatch(r'error: [^\n]+\n', err), err
  return err


@pytest.mark.parametrize(('names', 'spoil', 'match'), FOLDERS.values(), ids=FOLDERS)
def test_a_bad_folder_ends_the_command(tmp_path, monkeypatch, capsys, names, spoil, match):
  monkeypatch.chdir(tmp_path)
  images = tmp_path / 'images'
  if names is not None:
    images.mkdir()
    put(images, *names)
  if spoil is not None:
    file = images / 'train/a/1.png'
    file.write_bytes(spoil(file.read_bytes()))
  assert re.search(match, answer(capsys, f'--config.data.dir={images}'))
  assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize(
  ('name', 'match'),
  [
    ('cifar10', "'cifar10' is not in .*--config.data.download=True"),
    ('imagenet2012', 'attn_flax.data.prepare imagenet2012'),
    ('oxford_iiit_pet', 'attn_flax.data.prepare oxford_iiit_pet'),
    ('cifar1O', "did you mean 'cifar10'"),
  ],
)
def test_a_missing_dataset_ends_the_command(tmp_path, monkeypatch, capsys, name, match):
  monkeypatch.chdir(tmp_path)
  err = answer(capsys, f'--config.data.name={name}', f'--config.data.dir={tmp_path}')
  assert re.search(match, err) and not list(tmp_path.iterdir())


def test_a_label_out_of_range_ends_the_command(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  flags = ['--config.data.name=oxford_flowers102', '--config.data.size=32']
  with catalog(tmp_path / 'sets', 'oxford_flowers102', labels=[0] * 19 + [102]):
    err = answer(capsys, *flags)
  assert 'example 19 of oxford_flowers102/train has label 102' in err and '0 to 101' in err


@pytest.mark.parametrize('error', [OUT_OF_SPACE[0], OSError(errno.EACCES, 'Permission denied')])
def test_a_disk_that_takes_nothing_ends_the_command(tmp_path, monkeypatch, capsys, error):
  def fail(*_):
    raise error

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(build, '_write', fail)
  monkeypatch.setattr(cifar, '_download_and_prepare', fail)
  for name in ('cluttered_digits', 'cifar10'):
    flags = [f'--config.data.name={name}', f'--config.data.dir={tmp_path}/sets']
    # The lines before the error say that a dataset is prepared.
    assert (
      command_line.run(
        ['main.py', f'--config={ROOT}/configs/eca.py:smoke', *flags, '--config.data.download=True']
      )
      == 2
    )
    err = capsys.readouterr().err
    assert err.count('error: ') == 1 and f'{tmp_path}/sets/{name}' in err
    assert 'no space is left' in err or 'Permission denied' in err
    assert not (tmp_path / 'runs').exists()
