"""Datasets of `tensorflow-datasets`: which features are read, and how they are split."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from attn_flax.data.dataset import (
  LARGE_SIZE,
  PHOTO_SIZE,
  Dataset,
  DatasetSpec,
  Part,
  assemble,
  fits_memory,
  unlisted,
)
from attn_flax.data.records import Row, Source
from attn_flax.errors import UserError, check_choice

if TYPE_CHECKING:  # In functions, as it takes half a second, and folders of images do not need it.
  import tensorflow_datasets as tfds

# Datasets of characters and the like, whose mirror images have another meaning.
_NO_FLIP = (
  'binarized_mnist',
  'cmaterdb',
  'emnist',
  'kmnist',
  'mnist',
  'mnist_corrupted',
  'omniglot',
  'svhn_cropped',
)
_HELD_OUT = 0.1  # Share of the training split that replaces a missing split.
_READ_AT_ONCE = 1000

# Which values of a mask belong to the labeled object; by default all but 0.
_FOREGROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'oxford_iiit_pet': lambda mask: mask == 1,  # 2 is the background, 3 the border between them.
  'caltech_birds2011': lambda mask: mask > 127,  # The majority of five votes, each worth 51.
}


class Keys(NamedTuple):
  """Names of the features that are read; None where the dataset has no such feature."""

  image: str
  label: str
  mask: str | None
  bbox: str | None


def find_keys(builder: 'tfds.core.DatasetBuilder') -> Keys:
  """Which features of a dataset are its image, label, mask and box.

  Raises:
    UserError: it has no image or no class label.
  """
  import tensorflow_datasets as tfds

  features = dict(builder.info.features)
  pair = builder.info.supervised_keys or ()

  def find(kind: type, *preferred: str | None) -> str | None:
    found = [key for key, value in features.items() if isinstance(value, kind)]
    return next((key for key in preferred if key in found), None)

  def only(kind: type) -> str | None:
    found = [key for key, value in features.items() if isinstance(value, kind)]
    return found[0] if len(found) == 1 else None

  image = find(tfds.features.Image, 'image', *pair[:1], only(tfds.features.Image))
  label = find(tfds.features.ClassLabel, 'label', *pair[1:], only(tfds.features.ClassLabel))
  if image is None or label is None:
    raise UserError(
      f'dataset {builder.name!r} lacks an image or a class label; its features are '
      f'{", ".join(features)}: choose another dataset'
    )
  return Keys(
    image,
    label,
    mask=find(tfds.features.Image, 'mask', 'segmentation_mask'),
    # 'head_bbox' and the like are boxes of something else.
    bbox=find(tfds.features.BBoxFeature, 'bbox'),
  )


class CatalogSource(Source):
  """A part of a split of a prepared dataset, see `records.Source`."""

  def __init__(self, builder: 'tfds.core.DatasetBuilder', part: Part):
    """Opens the split's files.

    Raises:
      UserError: the dataset has no image, label or split of that name, or cannot be read.
    """
    import tensorflow_datasets as tfds

    check_choice(f'stored split of {builder.name}', part.split, builder.info.splits)
    self._feature = find_keys(builder)
    self.keys = frozenset(key for key, name in self._feature._asdict().items() if name is not None)
    features = dict(builder.info.features)
    self._num_classes = features[self._feature.label].num_classes
    # Images are not decoded here: unused ones then cost nothing, and pixels do not depend on the
    # imaging libraries that are installed.
    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    self._builder_name = builder.name
    self._split = part.split
    self._folder = str(builder.data_path)
    with self._readable():
      self._stored = builder.as_data_source(
        part.split, decoders={key: tfds.decode.SkipDecoding() for key in images}
      )
      self._indices = part.indices(len(self._stored))

  @contextlib.contextmanager
  def _readable(self) -> Iterator[None]:
    """Turns errors from the dataset's files into `UserError`."""
    try:
      yield
    except Exception as error:  # Readers in C++ raise errors of many types.
      reason = ' '.join(str(error).split())
      raise UserError(
        f'cannot read the split {self._split} in {self._folder!r} ({reason}): copy or prepare the '
        'dataset again'
      ) from error

  def __len__(self) -> int:
    return len(self._indices)

  def rows(self, indices: Sequence[int]) -> list[Row]:
    """Reads examples."""
    rows = []
    with self._readable():
      stored = self._stored.__getitems__([self._indices[index] for index in indices])
    for index, example in zip(indices, stored, strict=True):
      row = {key: example[getattr(self._feature, key)] for key in self.keys}
      row['label'] = label = int(row['label'])
      if not 0 <= label < self._num_classes:
        raise UserError(
          f'{self.name(index)} has label {label}, and the {self._num_classes} classes are numbered '
          f'from 0 to {self._num_classes - 1}: prepare the dataset without it, or with its class'
        )
      rows.append(row)
    return rows

  def labels(self) -> np.ndarray:
    """All labels, [N] int32; reads every example."""
    parts = [
      [row['label'] for row in self.rows(range(start, min(start + _READ_AT_ONCE, len(self))))]
      for start in range(0, len(self), _READ_AT_ONCE)
    ]
    return np.array([label for part in parts for label in part], np.int32)

  def name(self, index: int) -> str:
    """The example's number in its stored split."""
    return f'example {self._indices[index]} of {self._builder_name}/{self._split}'

  def foreground(self, mask: np.ndarray) -> np.ndarray:
    """Which pixels of a mask belong to the labeled object, see `records.Source`."""
    is_object = _FOREGROUND.get(self._builder_name)
    return mask > 0 if is_object is None else is_object(mask)


def load(
  name: str,
  builder: 'tfds.core.DatasetBuilder',
  spec: DatasetSpec | None,
  *,
  size: int | None,
  splits: Sequence[str],
  annotations: bool,
) -> Dataset:
  """Opens splits of a prepared dataset, in memory or as records, see `dataset.fits_memory`.

  Args:
    name: what the user calls the dataset.
    builder: its builder, prepared.
    spec: its spec; None: it is derived from the features.
    size: height and width in pixels; None: the spec's.
    splits: names of splits, of 'train', 'validation' and 'test'.
    annotations: whether to read masks and boxes.

  Raises:
    UserError: the dataset does not have the features or annotations, a split is empty, or an
      example cannot be read.
  """
  keys = find_keys(builder)
  height, width = dict(builder.info.features)[keys.image].shape[:2]
  spec = spec or describe(builder, keys, size)
  size = size or spec.image_size
  annotated = keys.mask is not None or keys.bbox is not None
  if annotations and not annotated:
    raise UserError(f'dataset {name!r} has no masks or boxes: choose another one, or read none')
  sources = {split: CatalogSource(builder, spec.parts.get(split, Part(split))) for split in splits}
  for split, source in sources.items():
    if not len(source):
      raise UserError(f'the {split} split of dataset {name!r} is empty: prepare all of the dataset')
  one_size = height == width == size
  return assemble(
    sources,
    dataclasses.replace(spec, image_size=size),
    dict(builder.info.features)[keys.label].names,
    in_memory=fits_memory(sum(map(len, sources.values())), size, one_size=one_size),
    one_size=one_size,
    annotated=annotations,
  )


def describe(builder: 'tfds.core.DatasetBuilder', keys: Keys, size: int | None) -> DatasetSpec:
  """The spec of a dataset that `DATASETS` does not list, derived from its features."""
  feature = dict(builder.info.features)[keys.image]
  height, width = feature.shape[:2]
  own = min(height, width) if height and width else PHOTO_SIZE
  size = size or own
  stored = {split: info.num_examples for split, info in builder.info.splits.items()}
  parts = find_parts(builder.name, stored)
  return unlisted(
    dict(builder.info.features)[keys.label].num_classes,
    size,
    small=size <= LARGE_SIZE or height == width == size,
    splits={split: len(part.indices(stored[part.split])) for split, part in parts.items()},
    flip=builder.name not in _NO_FLIP,
    annotated=keys.mask is not None or keys.bbox is not None,
    parts=parts,
  )


def find_parts(name: str, stored: Mapping[str, int]) -> dict[str, Part]:
  """The part of a stored split that makes up each of the three splits.

  Missing splits are cut off the end of 'train'. A stored 'validation' without a 'test' serves as
  the test, as for ImageNet.

  Args:
    name: the dataset's.
    stored: number of examples of each stored split.

  Raises:
    UserError: there is no 'train'.
  """
  if 'train' not in stored:
    raise UserError(
      f'dataset {name!r} has no train split; it has {", ".join(stored) or "none"}: choose another '
      'dataset'
    )
  held_out = [split for split in ('validation', 'test') if split in stored]
  if len(held_out) == 2:
    return {split: Part(split) for split in ('train', *held_out)}
  if held_out:
    train, rest = Part('train', 0, 1 - _HELD_OUT), Part('train', 1 - _HELD_OUT, 1)
    return {'train': train, 'validation': rest, 'test': Part(held_out[0])}
  first, second = 1 - 2 * _HELD_OUT, 1 - _HELD_OUT
  return {
    'train': Part('train', 0, first),
    'validation': Part('train', first, second),
    'test': Part('train', second, 1),
  }
