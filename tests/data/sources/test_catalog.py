"""Datasets of the catalog: the table, features and splits, and reading them."""

import dataclasses
import io
import itertools
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from fake_catalog import SIZES, FakeSource, catalog, encode, write_metadata
from PIL import Image

from attn_flax import data
from attn_flax.data import crops, prepare
from attn_flax.data.sources.tfds import builders
from attn_flax.data.sources.tfds import catalog as under_test
from attn_flax.errors import UserError
from configs.presets import recipes

ROOT = pathlib.Path(__file__).parents[3]


def pixels(encoded, size=None):
  """An image file as Pillow decodes it, resized to a square if a size is given."""
  image = Image.open(io.BytesIO(encoded)).convert('RGB')
  if size is not None and image.size != (size, size):
    image = image.resize((size, size), Image.Resampling.BILINEAR)
  return np.asarray(image)


# The table.


@pytest.mark.parametrize('name', ['cifar10', 'cifar100', 'imagenet2012'])
def test_the_table_agrees_with_the_catalog(tmp_path, name):
  spec = data.DATASETS[name]
  features = dict(tfds.builder(name, data_dir=tmp_path).info.features)
  assert spec.num_classes == features['label'].num_classes
  if name != 'imagenet2012':
    assert features['image'].shape == (spec.image_size, spec.image_size, 3)
  stored = {'cifar10': (50_000, 10_000), 'cifar100': (50_000, 10_000)}
  train, test = stored.get(name, (1_281_167, 50_000))
  held_out = {'train': train, 'test': test, 'validation': 50_000}
  for split, part in spec.parts.items():
    assert spec.splits[split] == len(part.indices(held_out[part.split]))
  assert spec.splits['train'] + spec.splits['validation'] == train
  assert spec.splits['test'] == test
  # The test split is not a part of the training split.
  assert spec.parts['test'].split != spec.parts['train'].split
  assert spec.flip and len(spec.mean) == len(spec.std) == 3


def test_the_configs_say_what_suits_each_dataset():
  assert set(data.DATASETS) | {data.FOLDER} == set(recipes.DATASETS)


@pytest.mark.parametrize('count', [1, 7, 10, 1281167])
def test_parts_of_a_split_cover_it_once(count):
  bounds = [0, 0.35, 0.8, 1]
  parts = [data.Part('x', *pair).indices(count) for pair in itertools.pairwise(bounds)]
  assert [index for part in parts for index in part][:1000] == list(range(count))[:1000]
  assert sum(map(len, parts)) == count


@pytest.mark.parametrize(
  ('stored', 'expected'),
  [
    (dict(train=100, validation=20, test=30), dict(train=100, validation=20, test=30)),
    (dict(train=100, test=30), dict(train=90, validation=10, test=30)),
    (dict(train=100, validation=20), dict(train=90, validation=10, test=20)),
    (dict(train=100), dict(train=80, validation=10, test=10)),
    (dict(train=100, extra=50), dict(train=80, validation=10, test=10)),
  ],
)
def test_missing_splits_are_cut_off_the_training_images(stored, expected):
  parts = under_test.find_parts('x', stored)
  assert {split: len(part.indices(stored[part.split])) for split, part in parts.items()} == expected
  with pytest.raises(UserError, match="'x' has no train split.*test"):
    under_test.find_parts('x', {'test': 3})


# Reading, under the mock of `tensorflow-datasets`.


@pytest.mark.parametrize('name', ['cifar100', 'mnist', 'eurosat/rgb'])
def test_small_images_of_one_size_are_read_into_memory(tmp_path, name):
  with catalog(tmp_path, name) as opened:
    dataset = data.load(name)
    features = tfds.builder(name).info.features
  assert opened == ['train', 'train', 'test']
  assert {split: len(part) for split, part in dataset.splits.items()} == dict(
    train=18, validation=2, test=7
  )
  assert dict(dataset.spec.splits) == dict(train=18, validation=2, test=7)
  size = features['image'].shape[0]
  assert dataset.image_shape == (size, size, 3) and dataset.resize == size
  assert dataset.class_names == tuple(features['label'].names)
  assert dataset.spec.flip == (name != 'mnist')
  source = FakeSource(features, 20)
  for i, index in enumerate([18, 19]):
    example = source.example(index)
    np.testing.assert_array_equal(dataset.splits['validation'].image[i], pixels(example['image']))
    assert dataset.splits['validation'].label[i] == example['label']


def test_another_size_than_the_datasets_own(tmp_path):
  with catalog(tmp_path, 'mnist'):
    dataset = data.load('mnist', size=32, splits=['test'])
    features = tfds.builder('mnist').info.features
  split = dataset.splits['test']
  assert split.image.shape == (7, 32, 32, 3) and dataset.spec.image_size == 32
  expected = pixels(FakeSource(features, 7).example(3)['image'], 32)
  np.testing.assert_array_equal(split.image[3], expected)


@pytest.mark.parametrize('name', ['imagenet2012', 'oxford_flowers102', 'caltech_birds2011'])
def test_images_of_many_sizes_stay_encoded(tmp_path, name):
  sizes = {'train': 1000, 'validation': 9, 'test': 5}
  if name == 'caltech_birds2011':
    del sizes['validation']
  with catalog(tmp_path, name, sizes) as opened:
    dataset = data.load(name)
  assert all(isinstance(split, data.Records) for split in dataset.splits.values())
  expected = {
    'imagenet2012': (['train', 'train', 'validation'], [990, 10, 9]),
    'oxford_flowers102': (['train', 'validation', 'test'], [1000, 9, 5]),
    'caltech_birds2011': (['train', 'train', 'test'], [900, 100, 5]),
  }[name]
  assert (opened, [len(split) for split in dataset.splits.values()]) == expected
  assert dataset.image_shape == (224, 224, 3) and dataset.spec.crop_padding == 0
  assert dataset.resize == 256

  test = dataset.splits['test']
  np.testing.assert_array_equal(test.label, np.arange(len(test)) % len(dataset.class_names))
  taken = test.take([4, 1])
  assert taken.image.shape == (2, 224, 224, 3) and taken.image.dtype == np.uint8
  np.testing.assert_array_equal(taken.label, test.label[[4, 1]])
  assert taken.mask is None and taken.bbox is None


@pytest.mark.parametrize('name', ['oxford_iiit_pet', 'caltech_birds2011'])
def test_masks_and_boxes_follow_the_image(tmp_path, name):
  shapes = [(300, 400), (400, 300)] * 10
  with catalog(tmp_path, name, shapes=shapes):
    dataset = data.load(name, annotations=True, splits=['test'])
    features = tfds.builder(name).info.features
  split = dataset.splits['test'].take(range(7))
  assert split.mask.shape == (7, 224, 224, 1) and split.mask.dtype == bool
  assert split.bbox.shape == (7, 4) and split.bbox.dtype == np.float32
  for i, (height, width) in enumerate(shapes[:7]):
    # The crop shows this part of the image.
    side = 224 / 256 * min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    corners = np.array([0.25 * height - top, 0.5 * width - left, 0.5 * height - top, width - left])
    box = np.clip(corners / side, 0, 1)
    if name == 'oxford_iiit_pet':  # The box is that of the mask, where 1 is the pet.
      np.testing.assert_allclose(split.bbox[i], box, atol=1 / 224)
      ymin, xmin, ymax, xmax = np.round(split.bbox[i] * 224).astype(int)
      assert split.mask[i, ymin:ymax, xmin:xmax].all()
      assert split.mask[i].sum() == (ymax - ymin) * (xmax - xmin)
    else:
      np.testing.assert_allclose(split.bbox[i], box, atol=1 / 224)
  assert features['label'].num_classes == len(dataset.class_names)


def test_what_a_mask_means():
  source = object.__new__(under_test.CatalogSource)
  values = np.array([0, 1, 2, 3, 102, 153, 255], np.uint8)
  for name, expected in {
    'oxford_iiit_pet': [0, 1, 0, 0, 0, 0, 0],
    'caltech_birds2011': [0, 0, 0, 0, 0, 1, 1],
    'another': [0, 1, 1, 1, 1, 1, 1],
  }.items():
    source._builder_name = name
    np.testing.assert_array_equal(source.foreground(values), np.array(expected, bool))


# Refusals.


def test_annotations_that_are_not_there(tmp_path):
  with catalog(tmp_path, 'oxford_flowers102', dict(train=5)):
    with pytest.raises(UserError, match="'oxford_flowers102' has no masks or boxes"):
      data.load('oxford_flowers102', annotations=True)


@pytest.mark.parametrize('label', [-1, 102])
def test_a_label_out_of_range_is_named(tmp_path, label):
  with catalog(tmp_path, 'oxford_flowers102', labels=[0] * 19 + [label]):
    dataset = data.load('oxford_flowers102', size=32, splits=['test'])
    assert len(dataset.splits['test']) == 7
    message = f'example 19 of oxford_flowers102/train has label {label}, and the 102 classes.*101'
    with pytest.raises(UserError, match=message):
      data.load('oxford_flowers102', size=32, splits=['validation'])
    with pytest.raises(UserError, match=message):
      data.load('oxford_flowers102').splits['validation'].take([1])


def test_a_broken_image_is_named(tmp_path, monkeypatch):
  value = FakeSource.value

  def broken(self, key, index, *arguments):
    found = value(self, key, index, *arguments)
    return found[: len(found) // 2] if key == 'image' and index == 3 else found

  monkeypatch.setattr(FakeSource, 'value', broken)
  with catalog(tmp_path, 'cifar10'):
    with pytest.raises(UserError, match='example 3 of cifar10/test cannot be used: .*truncated'):
      data.load('cifar10', splits=['test'])


NEAR = {
  'lsun_fake': None,
  'cifr10': 'cifar10',
  'CIFAR10': 'cifar10',
  'cifar-100': 'cifar100',
  'oxford_iit_pet': 'oxford_iiit_pet',
  'imagenet2021': 'imagenet2012',
  'ImageNet': 'imagenet2012',
  'a b': None,
}


@pytest.mark.parametrize(('name', 'near'), NEAR.items())
def test_unknown_names(tmp_path, name, near):
  with pytest.raises(UserError, match='^unknown dataset.*folder.*catalog[^\n]*$') as caught:
    data.load(name, data_dir=str(tmp_path))
  assert near is None or f'did you mean {near!r}?' in str(caught.value)


def test_names_that_are_something_else(tmp_path):
  with pytest.raises(UserError, match="unknown form of .* eurosat 'rgbb'; did you mean 'rgb'"):
    data.load('eurosat/rgbb', data_dir=str(tmp_path))
  with pytest.raises(
    UserError, match='data.name gs://bucket/set is not a path .*; mount the bucket'
  ):
    data.load('gs://bucket/set', data_dir=str(tmp_path))
  with pytest.raises(UserError, match='--config.data.name=folder --config.data.dir='):
    data.load(str(tmp_path))


def test_a_home_that_nobody_has_is_named_as_it_was_given(monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', '~nobody-at-all/datasets')
  with pytest.raises(UserError, match='^TFDS_DATA_DIR ~nobody-at-all/datasets names an unknown'):
    data.load('cifar10')
  with pytest.raises(UserError, match='^--config.data.dir ~nobody-at-all names an unknown'):
    data.load('cifar10', data_dir='~nobody-at-all')


@pytest.mark.parametrize('download', [False, True])
@pytest.mark.parametrize('name', ['oxford_iiit_pet', 'imagenet2012'])
def test_a_missing_dataset_names_the_command(tmp_path, name, download):
  with pytest.raises(UserError) as caught:
    data.load(name, data_dir=str(tmp_path), download=download)
  text = str(caught.value)
  assert f'`python -m attn_flax.data.prepare {name} --data_dir={tmp_path}`' in text
  assert "pip install 'attn_flax[prepare]'" in text and '\n' not in text
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['cifar10', 'oxford_iiit_pet'])
def test_tfrecords_name_the_command(tmp_path, name):
  folder = write_metadata(name, tmp_path, file_format='tfrecord')
  with pytest.raises(UserError) as caught:
    data.load(name, data_dir=str(tmp_path))
  text = str(caught.value)
  assert str(folder) in text and 'tfrecord' in text and '\n' not in text
  assert f'python -m attn_flax.data.prepare {name} --data_dir=/path/to/another/folder' in text


def test_what_is_not_for_classification(tmp_path):
  write_metadata('wider_face', tmp_path)
  with pytest.raises(UserError, match="'wider_face' lacks an image .*its features are .*faces"):
    data.load('wider_face', data_dir=str(tmp_path))


def test_code_that_needs_tensorflow(tmp_path, monkeypatch):
  """A dataset that is prepared can be read even if its own code needs TensorFlow."""

  def builder(name, **_):
    raise ModuleNotFoundError("No module named 'tensorflow'")

  folder = write_metadata('mnist', tmp_path)
  monkeypatch.setattr(tfds, 'builder', builder)
  assert builders.open_builder('mnist', str(tmp_path)).data_path == folder
  with pytest.raises(UserError, match='attn_flax.data.prepare emnist'):
    data.load('emnist', data_dir=str(tmp_path))


def test_sizes_and_splits(tmp_path):
  with pytest.raises(UserError, match=r'size 64.*--config\.data\.size from \[32\]'):
    data.load('cifar10', size=64)
  with pytest.raises(UserError, match=r'data\.size=4 .* from 8 to 16384'):
    data.load('imagenet2012', size=4)
  with pytest.raises(UserError, match="split of mnist 'val'.*test, train, validation"):
    data.load('mnist', splits=['val'])
  with pytest.raises(UserError, match="'cifar10' has no masks.*cluttered_digits"):
    data.load('cifar10', annotations=True)


# Prepared datasets on disk.


class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A dataset that is in no catalog."""

  name = 'shapes'
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {
      'picture': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
      'kind': tfds.features.ClassLabel(names=['round', 'square', 'else']),
      'mask': tfds.features.Image(shape=(None, None, 1), encoding_format='png'),
      'bbox': tfds.features.BBoxFeature(),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=('picture', 'kind'),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i in range(20):
      rng = np.random.default_rng(i)
      shape = (40 + i, 50)
      mask = np.zeros(shape, np.uint8)
      mask[10:20, 20:30] = 255
      yield (
        i,
        {
          'picture': io.BytesIO(encode(rng.integers(0, 256, (*shape, 3), np.uint8))),
          'kind': i % 3,
          'mask': io.BytesIO(encode(mask)),
          'bbox': tfds.features.BBox(10 / shape[0], 0.4, 20 / shape[0], 0.6),
        },
      )


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
  """The root folder of a dataset that is actually prepared."""
  root = tmp_path_factory.mktemp('prepared')
  builder = Shapes(data_dir=root, file_format='array_record')
  builder.download_and_prepare(
    download_dir=root / 'downloads',
    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
  )
  return root


@pytest.mark.parametrize('by', ['name', 'path'])
def test_a_prepared_dataset_by_name_and_by_path(shapes, by):
  folder = shapes / 'shapes/1.0.0'
  arguments = dict(data_dir=str(shapes)) if by == 'name' else {}
  dataset = data.load('shapes' if by == 'name' else str(folder), annotations=True, **arguments)
  assert dataset.class_names == ('round', 'square', 'else')
  assert {split: len(part) for split, part in dataset.splits.items()} == dict(
    train=16, validation=2, test=2
  )
  split = dataset.splits['validation'].take([1])
  assert split.label.tolist() == [17 % 3]
  # Resized and cropped in two steps, with Pillow.
  image = np.random.default_rng(17).integers(0, 256, (57, 50, 3), np.uint8)
  resized = Image.fromarray(image).resize((256, 57 * 256 // 50), Image.Resampling.BILINEAR)
  top = round((resized.height - 224) / 2)
  expected = np.asarray(resized)[top : top + 224, 16:240]
  np.testing.assert_array_equal(split.image[0], expected)
  ymin, xmin, ymax, xmax = np.round(split.bbox[0] * 224).astype(int)
  assert split.mask[0, ymin + 1 : ymax - 1, xmin + 1 : xmax - 1].all()
  assert abs(int(split.mask[0].sum()) - (ymax - ymin) * (xmax - xmin)) < 250
  # At a small size the images are held in memory.
  small = data.load(str(folder), size=32).splits['train']
  assert isinstance(small, data.Split) and small.image.shape == (16, 32, 32, 3)


def test_stored_records_can_be_read_by_many(shapes):
  """By several threads at once, and by a process that unpickles the source."""
  records = data.load('shapes', data_dir=str(shapes), splits=['train']).splits['train']
  draws = np.random.default_rng(0).random((160, crops.TRIES, 4))
  index = np.tile(np.arange(16), 10)
  expected = records.train_batch(index, draws)
  for other, threads in [(records, 5), (pickle.loads(pickle.dumps(records)), 1)]:
    actual = other.train_batch(index, draws, threads=threads)
    np.testing.assert_array_equal(actual.image, expected.image)
    np.testing.assert_array_equal(actual.label, expected.label)
  np.testing.assert_array_equal(records.label, np.arange(16) % 3)


def test_paths_that_hold_no_dataset(shapes, tmp_path):
  with pytest.raises(UserError, match=r"no dataset_info.json: name '.*shapes/1\.0\.0'"):
    data.load(str(shapes / 'shapes'))
  with pytest.raises(UserError, match='no dataset_info.json: name the folder that holds it'):
    data.load(str(tmp_path))
  with pytest.raises(UserError, match='there is no folder .*missing'):
    data.load(str(tmp_path / 'missing'))


@pytest.mark.parametrize('how', ['missing', 'truncated', 'damaged'])
def test_stored_files_that_are_not_whole(shapes, tmp_path, how):
  copy = tmp_path / 'shapes/1.0.0'
  shutil.copytree(shapes / 'shapes/1.0.0', copy)
  (file,) = copy.glob('*.array_record*')
  content = bytearray(file.read_bytes())
  if how == 'missing':
    file.unlink()
  elif how == 'truncated':
    file.write_bytes(content[: len(content) // 2])
  else:
    content[1000:-1000] = bytes(len(content) - 2000)
    file.write_bytes(content)
  with pytest.raises(
    UserError, match=r"cannot read the split train in '.*shapes/1\.0\.0' \(.*again"
  ):
    data.load(str(copy), size=32)


def test_a_stored_split_that_is_not_there(tmp_path):
  with catalog(tmp_path, 'cifar10', dict(train=10)):
    assert len(data.load('cifar10', splits=['train']).splits['train']) == 9
    with pytest.raises(UserError, match="unknown stored split of cifar10 'test'.*train"):
      data.load('cifar10')


def test_a_version_that_is_not_the_latest_is_taken(tmp_path):
  folder = write_metadata('mnist', tmp_path)
  older = folder.rename(folder.with_name('2.9.0'))
  assert builders.open_builder('mnist', str(tmp_path)).data_path == older
  (tmp_path / 'mnist/2.10.0').mkdir()
  for file in older.iterdir():
    (tmp_path / 'mnist/2.10.0' / file.name).write_bytes(file.read_bytes())
  assert builders.open_builder('mnist', str(tmp_path)).data_path.name == '2.10.0'


# The command that prepares.


def test_preparing_names_what_is_missing(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(prepare.importlib.util, 'find_spec', lambda name: None)
  assert prepare.main(['oxford_iiit_pet', f'--data_dir={tmp_path}']) == 2
  assert capsys.readouterr().err == (
    "error: preparing 'oxford_iiit_pet' needs TensorFlow: pip install 'attn_flax[prepare]', then "
    'run this command again\n'
  )
  assert not list(tmp_path.iterdir())


def test_preparing_what_is_there_already(tmp_path, capsys):
  folder = write_metadata('mnist', tmp_path)
  assert prepare.main(['mnist', f'--data_dir={tmp_path}']) == 0
  assert capsys.readouterr().out == f'mnist is ready in {folder}\n'
  other = tmp_path / 'other'
  write_metadata('mnist', other, file_format='tfrecord')
  assert prepare.main(['mnist', f'--data_dir={other}']) == 2
  assert 'tfrecord' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['cluttered_digits', 'folder', 'minst'])
def test_preparing_what_cannot_be_prepared(tmp_path, name, capsys):
  assert prepare.main([name, f'--data_dir={tmp_path}']) == 2
  error = capsys.readouterr().err
  assert ("'mnist'" if name == 'minst' else f'{name!r} needs no preparation') in error
  assert error.count('\n') == 1


def test_the_arguments_reach_the_library(tmp_path, monkeypatch):
  asked = []

  def download_and_prepare(self, *, download_dir, download_config):
    asked.append((self.name, str(download_dir), download_config.manual_dir, self.info.file_format))
    write_metadata('mnist', tmp_path)

  monkeypatch.setattr(prepare.importlib.util, 'find_spec', lambda name: True)
  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', download_and_prepare)
  arguments = [f'--data_dir={tmp_path}', '--download_dir=/downloads', '--manual_dir=/archives']
  assert prepare.main(['mnist', *arguments]) == 0
  array_record = tfds.core.file_adapters.FileFormat.ARRAY_RECORD
  assert asked == [('mnist', '/downloads', '/archives', array_record)]


PREPARATION_FAILS = [
  AssertionError('Manual directory /x does not exist or is empty.\nCreate it:\ntrain.tar'),
  ModuleNotFoundError("No module named 'apache_beam'"),
  requests.ConnectionError('Name or service\nnot known'),
  tfds.download.DownloadError('Failed to get url https://x. HTTP code: 404.'),
  tfds.download.download_manager.NonMatchingChecksumError('Artifact https://x has wrong checksum.'),
  OSError('Not enough disk space. Needed: 800 MiB (download: 773 MiB, generated: 27 MiB)'),
]


@pytest.mark.parametrize('error', PREPARATION_FAILS, ids=lambda error: type(error).__name__)
def test_what_fails_while_preparing_is_told_in_one_line(tmp_path, error, monkeypatch, capsys):
  def download_and_prepare(self, **_):
    raise error

  monkeypatch.setattr(prepare.importlib.util, 'find_spec', lambda name: True)
  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', download_and_prepare)
  assert prepare.main(['oxford_iiit_pet', f'--data_dir={tmp_path}']) == 2
  text = capsys.readouterr().err
  assert text.count('\n') == 1 and text.startswith('error: ')
  if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
    assert f"no space is left on the disk for '{tmp_path}/oxford_iiit_pet'" in text
  else:
    assert "'oxford_iiit_pet' could not be prepared" in text and '--manual_dir' in text
    assert ' '.join(str(error).split()) in text


def test_help_and_missing_arguments(capsys):
  for arguments, code in [(['--help'], 0), ([], 2)]:
    with pytest.raises(SystemExit) as caught:
      prepare.main(arguments)
    assert caught.value.code == code
  assert '--manual_dir' in capsys.readouterr().out


LIGHT = """
import sys
import attn_flax.data, attn_flax.data.pipeline
heavy = {'tensorflow', 'tensorflow_datasets', 'grain', 'sklearn'} & set(sys.modules)
assert not heavy, heavy
from attn_flax import data
data.load('shapes', data_dir=sys.argv[1], size=32)
assert 'tensorflow' not in sys.modules and 'grain' not in sys.modules
"""


def test_importing_is_light_and_reading_needs_no_tensorflow(shapes):
  subprocess.run([sys.executable, '-c', LIGHT, str(shapes)], check=True, cwd=ROOT)


def test_the_facts_are_not_shared_between_loads(tmp_path):
  before = dataclasses.asdict(data.DATASETS['cifar10'])
  with catalog(tmp_path, 'cifar10'):
    data.load('cifar10')
  assert dataclasses.asdict(data.DATASETS['cifar10']) == before and SIZES == dict(train=20, test=7)
