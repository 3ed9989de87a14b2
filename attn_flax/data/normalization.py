"""The mean and standard deviation that images are normalized with: known, measured or given."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from attn_flax.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset
from attn_flax.data.progress import progress
from attn_flax.errors import UserError, check_choice, check_range, check_type, shown

KINDS = ('dataset', 'imagenet', 'measured')
_MOST = 10_000  # The most images that are measured: the mean is then accurate to about 0.002.
_CHUNK = 256
_DIGITS = 4
_LEAST_STD = 1e-4  # In 0..1 units.

_Pair = tuple[tuple[float, ...], tuple[float, ...]]


def check_normalize(normalize: str) -> None:
  """Raises `UserError` unless `normalize` is a value that `normalized` takes."""
  check_type('data.normalize', normalize, str, f'one of {", ".join(KINDS)}, or <mean>/<deviation>')
  if '/' in normalize:
    _parse(normalize)
  else:
    check_choice('data.normalize', normalize, KINDS)


def normalized(dataset: Dataset, normalize: str) -> tuple[Dataset, str]:
  """Sets the mean and the standard deviation that a dataset is normalized with.

  Args:
    dataset: the dataset.
    normalize: 'dataset': the known values of the dataset, or ImageNet's where none are known;
      'imagenet': ImageNet's; 'measured': those of the training images; or numbers in 0..1 units for
      red, green and blue or for all channels, '0.5,0.4,0.3/0.2,0.2,0.2' or '0.5/0.25'.

  Returns:
    The dataset with these values, and a sentence that says what they are.

  Raises:
    UserError: the training split is to be measured, and it was not opened or has only one color.
  """
  spec = dataset.spec
  if normalize == 'dataset':
    mean, std, whose = spec.mean, spec.std, "the dataset's"
  elif normalize == 'imagenet':
    mean, std, whose = IMAGENET_MEAN, IMAGENET_STD, "ImageNet's"
  elif normalize == 'measured':
    (mean, std), whose = _measure(dataset), 'the measured'
  else:
    (mean, std), whose = _parse(normalize), 'the given'
  if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
    whose = "ImageNet's"
  values = ' and '.join(' '.join(f'{value:g}' for value in part) for part in (mean, std))
  field = f' (data.normalize={normalize})' if normalize in KINDS else ''
  text = f'normalized by {whose} mean and deviation, {values}{field}'
  return dataclasses.replace(dataset, spec=dataclasses.replace(spec, mean=mean, std=std)), text


def in_text(mean: Sequence[float], std: Sequence[float]) -> str:
  """A mean and a deviation as `normalized` takes them, with all their digits."""
  return '/'.join(','.join(map(repr, part)) for part in (mean, std))


def _parse(normalize: str) -> _Pair:
  """The numbers of '<mean>/<deviation>'."""
  try:
    parts = [[float(word) for word in part.split(',')] for part in normalize.split('/')]
  except ValueError:
    parts = []
  if len(parts) != 2 or any(len(part) not in (1, 3) for part in parts):
    raise UserError(
      f'data.normalize={shown(normalize)} is impossible; give one or three numbers on each side, '
      'such as 0.49,0.48,0.45/0.25,0.24,0.26'
    )
  for value in parts[0]:
    check_range('the mean in data.normalize', value, 0, 1)
  for value in parts[1]:
    check_range('the deviation in data.normalize', value, _LEAST_STD, 1)
  mean, std = (tuple(part * 3 if len(part) == 1 else part) for part in parts)
  return mean, std


def _measure(dataset: Dataset) -> _Pair:
  """Mean and deviation of the training images as evaluation sees them.

  At most `_MOST` images are measured, evenly spread over the split. The sums are integers, so that
  they do not depend on the order of addition or the machine.
  """
  if 'train' not in dataset.splits:
    raise UserError("data.normalize='measured' needs the training images; open that split, too")
  split = dataset.splits['train']
  chosen = np.unique(np.linspace(0, len(split) - 1, min(len(split), _MOST)).round().astype(int))
  first, second = np.zeros(3, np.int64), np.zeros(3, np.int64)
  with progress('measuring the training images', len(chosen), 'images') as advance:
    for start in range(0, len(chosen), _CHUNK):
      part = chosen[start : start + _CHUNK]
      images = split.take(part).image
      first += images.sum((0, 1, 2), np.int64)
      second += np.square(images, dtype=np.uint16).sum((0, 1, 2), np.int64)
      advance(len(part))
  height, width, _ = dataset.image_shape
  mean = first / (len(chosen) * height * width)
  variance = second / (len(chosen) * height * width) - mean**2
  std = np.sqrt(np.maximum(variance, 0))
  if std.min() / 255 < _LEAST_STD:
    raise UserError(
      f'the training images have the deviations {", ".join(f"{x / 255:.2g}" for x in std)} in '
      'red, green and blue, and none may be 0; choose others with '
      '--config.data.normalize=<mean>/<deviation>'
    )
  return _rounded(mean / 255), _rounded(std / 255)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
  return tuple(round(float(value), _DIGITS) for value in values)
