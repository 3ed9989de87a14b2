"""Datasets by name: one table of their facts, and their splits as NumPy arrays.

Read through `tensorflow-datasets` without TensorFlow. Importing this package is cheap: what takes
long to import is imported where it is first needed.
"""

import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_flax.data import cluttered_digits
from attn_flax.errors import UserError, check_choice

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

_READ_AT_ONCE = 1000  # Records per bulk read: few calls, and little memory for undecoded records.


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
  """What is known about a dataset before it is read: a row of `DATASETS`.

  Attributes:
    num_classes: number of labels, 0..num_classes - 1.
    image_size: height and width in pixels.
    sizes: the sizes that can be asked for.
    mean: mean of each channel over the training split, in 0..1 units.
    std: standard deviation of each channel over the training split, in 0..1 units.
    flip: whether the mirror image of an example has the same label, so that training may flip.
    crop_padding: pixels of padding on each side before a random crop at training; 0: no crop.
    splits: number of examples of each split.
    annotated: whether `Split.mask` and `Split.bbox` exist.
    open: (data_dir, size, seed) -> prepared builder of `tensorflow-datasets`, whose features are
      'image', 'label' and, where annotated, 'mask' and 'bbox'.
  """

  num_classes: int
  image_size: int
  sizes: tuple[int, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  flip: bool
  crop_padding: int
  splits: Mapping[str, int]
  annotated: bool
  open: Callable[[str | None, int, int], 'tfds.core.DatasetBuilder']


def _open_cluttered_digits(
  data_dir: str | None, size: int, seed: int
) -> 'tfds.core.DatasetBuilder':
  from attn_flax.data import cluttered_digits_builder

  return cluttered_digits_builder.prepare(data_dir, size, seed)


DATASETS = {
  'cluttered_digits': DatasetSpec(
    num_classes=cluttered_digits.NUM_CLASSES,
    image_size=32,
    sizes=tuple(cluttered_digits.DIFFICULTIES),
    # Of the default size and seed; those of 64 x 64 pixels lie within 0.03.
    mean=(0.444, 0.426, 0.405),
    std=(0.269, 0.252, 0.259),
    flip=False,  # Few digits survive a mirror.
    crop_padding=2,
    splits=cluttered_digits.SPLIT_SIZES,
    annotated=True,
    open=_open_cluttered_digits,
  ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """One split of a dataset, in memory.

  Attributes:
    image: [N, H, W, C] uint8.
    label: [N] int32.
    mask: [N, H, W, 1] bool, the pixels of the labelled object; None unless asked for.
    bbox: [N, 4] float32, the object's tight box as (ymin, xmin, ymax, xmax) in 0..1; likewise.
  """

  image: np.ndarray
  label: np.ndarray
  mask: np.ndarray | None = None
  bbox: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.label)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A dataset in memory.

  Attributes:
    spec: its row of `DATASETS`, with `image_size` as loaded.
    class_names: the name of each label.
    splits: the splits that were asked for, by name.
  """

  spec: DatasetSpec
  class_names: tuple[str, ...]
  splits: dict[str, Split]


def load(
  name: str,
  *,
  data_dir: str | None = None,
  size: int | None = None,
  seed: int = cluttered_digits.DEFAULT_SEED,
  splits: Iterable[str] = ('train', 'validation', 'test'),
  annotations: bool = False,
) -> Dataset:
  """Reads splits of a dataset into memory, and makes the dataset first if it is an embedded one.

  Args:
    name: a key of `DATASETS`.
    data_dir: root folder of the datasets; None: the environment variable TFDS_DATA_DIR, else the
      default of tensorflow-datasets.
    size: height and width in pixels, one of the dataset's `sizes`; None: its `image_size`.
    seed: seed of an embedded dataset; others ignore it.
    splits: names of the splits to read.
    annotations: whether to read masks and boxes, too.

  Raises:
    UserError: an unknown dataset, size or split, annotations that the dataset does not have, or a
      `data_dir` that cannot be written to.
  """
  check_choice('dataset', name, DATASETS)
  spec = DATASETS[name]
  size = spec.image_size if size is None else size
  if size not in spec.sizes:
    raise UserError(
      f'dataset {name!r} has no images of size {size}: choose --config.data.size from '
      f'{list(spec.sizes)}'
    )
  splits = tuple(splits)
  for split in splits:
    check_choice(f'split of {name}', split, spec.splits)
  if annotations and not spec.annotated:
    annotated = [other for other in DATASETS if DATASETS[other].annotated]
    raise UserError(f'dataset {name!r} has no masks and boxes: choose from {annotated}')

  builder = spec.open(data_dir, size, seed)
  return Dataset(
    spec=dataclasses.replace(spec, image_size=size),
    class_names=tuple(builder.info.features['label'].names),
    splits={split: _read(builder, split, annotations) for split in splits},
  )


def _read(builder: 'tfds.core.DatasetBuilder', split: str, annotations: bool) -> Split:
  """Decodes a whole split."""
  import tensorflow_datasets as tfds

  # Images come undecoded: masks are then free where nobody asks for them, and what the pixels are
  # does not depend on which imaging libraries happen to be installed.
  images = [key for key in ('image', 'mask') if key in builder.info.features]
  source = builder.as_data_source(
    split, decoders={key: tfds.decode.SkipDecoding() for key in images}
  )
  arrays: dict[str, np.ndarray] = {}
  for start in range(0, len(source), _READ_AT_ONCE):
    rows = source.__getitems__(range(start, min(start + _READ_AT_ONCE, len(source))))
    for key, values in _decode(rows, annotations).items():
      if key not in arrays:
        arrays[key] = np.empty((len(source), *values.shape[1:]), values.dtype)
      arrays[key][start : start + len(values)] = values
  return Split(**arrays)


def _decode(rows: Iterable[Mapping[str, Any]], annotations: bool) -> dict[str, np.ndarray]:
  """Turns records into the arrays of a `Split`."""
  arrays = {
    'image': np.stack([_pixels(row['image'], 'RGB') for row in rows]),
    'label': np.array([row['label'] for row in rows], np.int32),
  }
  if annotations:
    arrays['mask'] = np.stack([_pixels(row['mask'], 'L')[..., None] > 0 for row in rows])
    arrays['bbox'] = np.stack([row['bbox'] for row in rows]).astype(np.float32)
  return arrays


def _pixels(encoded: bytes, mode: str) -> np.ndarray:
  """Decodes an image file to [H, W, 3] ('RGB') or [H, W] ('L') uint8."""
  from PIL import Image

  with Image.open(io.BytesIO(encoded)) as image:
    return np.asarray(image.convert(mode))
