"""Mean and deviation of the images: known, measured or given."""

import numpy as np
import pytest
from PIL import Image

from attn_flax import data
from attn_flax.data import normalization
from attn_flax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from attn_flax.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Images of 32 pixels; those of training are darker."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  rng = np.random.default_rng(0)
  for split, most in (('train', (100, 150, 200)), ('val', (255,) * 3), ('test', (255,) * 3)):
    for name in 'ab':
      (tmp_path / 'images' / split / name).mkdir(parents=True)
      for i in range(5):
        pixels = (rng.random((32, 32, 3)) * most).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / 'images' / split / name / f'{i}.png')
  return tmp_path / 'images'


def load(folder, normalize, **arguments):
  return data.load('folder', data_dir=str(folder), normalize=normalize, **arguments)


def test_the_training_images_are_measured(folder, capsys):
  dataset = load(folder, 'measured')
  pixels = dataset.splits['train'].image / 255
  np.testing.assert_allclose(dataset.spec.mean, pixels.mean((0, 1, 2)), atol=5.1e-5)
  np.testing.assert_allclose(dataset.spec.std, pixels.std((0, 1, 2)), atol=5.1e-5)
  assert dataset.spec.mean[0] < 0.25 < dataset.spec.mean[1]
  err = capsys.readouterr().err
  assert f'normalized by the measured mean and deviation, {dataset.spec.mean[0]:g} ' in err


def test_images_that_are_streamed_are_measured_as_evaluation_sees_them(folder, monkeypatch):
  whole = load(folder, 'measured', size=100, enlarge=True)
  pixels = whole.splits['train'].take(range(10)).image / 255
  np.testing.assert_allclose(whole.spec.mean, pixels.mean((0, 1, 2)), atol=5.1e-5)
  np.testing.assert_allclose(whole.spec.std, pixels.std((0, 1, 2)), atol=5.1e-5)
  monkeypatch.setattr(normalization, '_CHUNK', 3)
  assert load(folder, 'measured', size=100, enlarge=True).spec == whole.spec
  monkeypatch.setattr(normalization, '_MOST', 4)
  few = load(folder, 'measured', size=100, enlarge=True).spec
  chosen = whole.splits['train'].take([0, 3, 6, 9]).image / 255
  np.testing.assert_allclose(few.mean, chosen.mean((0, 1, 2)), atol=5.1e-5)


@pytest.mark.parametrize(
  ('normalize', 'mean', 'std', 'words'),
  [
    ('dataset', IMAGENET_MEAN, IMAGENET_STD, "ImageNet's"),
    ('imagenet', IMAGENET_MEAN, IMAGENET_STD, "ImageNet's"),
    ('0.5/0.25', (0.5,) * 3, (0.25,) * 3, 'the given'),
    ('0.1, 0.2, 0.3 / 0.4,0.5,0.6', (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 'the given'),
  ],
)
def test_values_are_known_or_given(folder, capsys, normalize, mean, std, words):
  spec = load(folder, normalize).spec
  assert (spec.mean, spec.std) == (mean, std)
  assert f'normalized by {words} mean and deviation' in capsys.readouterr().err


def test_a_dataset_with_a_name_is_normalized_as_asked(small_dataset):
  known = data.load('cluttered_digits').spec
  assert known.mean == small_dataset.mean
  measured = data.load('cluttered_digits', normalize='measured').spec
  assert measured.mean != known.mean
  np.testing.assert_allclose(measured.mean, known.mean, atol=0.03)
  np.testing.assert_allclose(measured.std, known.std, atol=0.03)
  assert data.load('cluttered_digits', normalize='imagenet').spec.mean == IMAGENET_MEAN


@pytest.mark.parametrize(
  ('normalize', 'message'),
  [
    ('mesured', "unknown data.normalize 'mesured'; did you mean 'measured'"),
    ('', "unknown data.normalize ''"),
    ('0.5', "unknown data.normalize '0.5'"),
    ('0.5/', "data.normalize='0.5/' is impossible; give one or three numbers on each side"),
    ('1,2/3,4', 'give one or three numbers on each side'),
    ('a/b', 'give one or three numbers on each side'),
    ('0.5/0.5/0.5', 'give one or three numbers on each side'),
    ('123.7,116.3,103.5/58,57,57', 'the mean in data.normalize=123.7 is impossible.* 0 to 1'),
    ('0.5/0', 'the deviation in data.normalize=0.0 is impossible'),
    ('nan/0.5', 'the mean in data.normalize=nan is impossible'),
    (None, 'data.normalize=None is impossible; give one of'),
    (((0.5,), (0.5,)), 'data.normalize=.* is impossible; give one of'),
  ],
)
def test_impossible_values_are_refused(folder, normalize, message):
  with pytest.raises(UserError, match=message):
    load(folder, normalize)


def test_what_cannot_be_measured_is_refused(folder):
  with pytest.raises(UserError, match='needs the training images; open that split, too'):
    load(folder, 'measured', splits=['test'])
  for path in (folder / 'train').rglob('*.png'):
    Image.fromarray(np.full((32, 32, 3), (7, 8, 9), np.uint8)).save(path)
  with pytest.raises(UserError, match='have the deviations 0, 0, 0 in red, .*data.normalize='):
    load(folder, 'measured')
