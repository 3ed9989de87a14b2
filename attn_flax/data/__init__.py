"""Datasets by name: one table of their facts, and their splits in memory or as records.

Read through `tensorflow-datasets` without TensorFlow, or from a folder of images. Importing this
package is cheap: what takes long to import is imported where it is first needed.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from attn_flax.data import cluttered_digits
from attn_flax.data.records import Records
from attn_flax.data.sampling import class_counts, class_weights
from attn_flax.data.splits import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  PHOTO_SIZE,
  Dataset,
  DatasetSpec,
  Part,
  Split,
)
from attn_flax.errors import UserError, check_choice

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

__all__ = [
  'DATASETS',
  'Dataset',
  'DatasetSpec',
  'Part',
  'Records',
  'Split',
  'class_counts',
  'class_weights',
  'load',
]

FOLDER = 'folder'  # The name of what is no dataset by name, but a user's folder of images.
SPLITS = ('train', 'validation', 'test')
_LEAST_SIZE = 8


def _open_cluttered_digits(
  data_dir: str | None, size: int, seed: int
) -> 'tfds.core.DatasetBuilder':
  from attn_flax.data import cluttered_digits_builder

  return cluttered_digits_builder.prepare(data_dir, size, seed)


_CIFAR_PARTS = {
  'train': Part('train', 0, 0.9),
  'validation': Part('train', 0.9, 1),
  'test': Part('test'),
}

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
    recipe='quick',
    network='resnet20',
    stem='cifar',
  ),
  'cifar10': DatasetSpec(
    num_classes=10,
    image_size=32,
    sizes=(32,),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    flip=True,
    crop_padding=4,
    splits={'train': 45_000, 'validation': 5_000, 'test': 10_000},
    parts=_CIFAR_PARTS,
    recipe='cifar',
    network='resnet18',
    stem='cifar',
  ),
  'cifar100': DatasetSpec(
    num_classes=100,
    image_size=32,
    sizes=(32,),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    flip=True,
    crop_padding=4,
    splits={'train': 45_000, 'validation': 5_000, 'test': 10_000},
    parts=_CIFAR_PARTS,
    recipe='cifar',
    network='resnet18',
    stem='cifar',
  ),
  'imagenet2012': DatasetSpec(
    num_classes=1000,
    image_size=PHOTO_SIZE,
    sizes=(),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    flip=True,
    crop_padding=0,
    splits={'train': 1_268_355, 'validation': 12_812, 'test': 50_000},
    # The images of the official test have no public labels.
    parts={
      'train': Part('train', 0, 0.99),
      'validation': Part('train', 0.99, 1),
      'test': Part('validation'),
    },
    recipe='imagenet',
    network='resnet50',
    stem='imagenet',
  ),
}


def load(
  name: str,
  *,
  data_dir: str | None = None,
  size: int | None = None,
  seed: int = cluttered_digits.DEFAULT_SEED,
  splits: Iterable[str] = SPLITS,
  annotations: bool = False,
  download: bool = False,
  max_bad: int = 0,
  enlarge: bool = False,
) -> Dataset:
  """Opens splits of a dataset, and makes the dataset first if it is an embedded one.

  Small images of one size are read into memory (`Split`), others are decoded when they are needed
  (`Records`); `pipeline.open_pipeline` takes both.

  Args:
    name: a key of `DATASETS`; a dataset of the catalogue of tensorflow-datasets, such as
      'oxford_iiit_pet' or 'eurosat/rgb', or the path of a prepared one; or 'folder', a folder of
      images, `train/<class>/*` and so on.
    data_dir: root folder of the datasets; None: the environment variable TFDS_DATA_DIR, else the
      default of tensorflow-datasets. Of 'folder' the folder itself, and of 'imagenet2012' it may be
      that of the class folders.
    size: height and width in pixels; None: the dataset's `image_size`.
    seed: seed of an embedded dataset, and of the splits of a folder; others ignore it.
    splits: names of the splits to read, of 'train', 'validation' and 'test'.
    annotations: whether to read masks and boxes, too.
    download: whether to download a dataset that is missing.
    max_bad: broken images of a folder that are passed over.
    enlarge: whether images of a folder that are smaller than `size` are enlarged instead of being
      an error.

  Raises:
    UserError: an unknown dataset, size or split, a missing or unreadable dataset, annotations that
      it does not have, or a `data_dir` that cannot be written to.
  """
  splits = tuple(splits)
  spec = DATASETS.get(name)
  for split in splits:
    check_choice(f'split of {name}', split, SPLITS if spec is None else spec.splits)
  _check_size(name, spec, size)
  if annotations and (name == FOLDER or (spec is not None and not spec.annotated)):
    annotated = [other for other in DATASETS if DATASETS[other].annotated]
    raise UserError(f'dataset {name!r} has no masks and boxes: choose from {annotated}')

  if name == FOLDER:
    from attn_flax.data import folder

    return folder.load(
      data_dir, size=size, seed=seed, splits=splits, max_bad=max_bad, enlarge=enlarge
    )
  if name == 'imagenet2012' and spec is not None:
    from attn_flax.data import folder

    if data_dir is not None and folder.holds_imagenet(data_dir):
      return folder.load_imagenet(data_dir, spec, size=size, seed=seed, splits=splits)

  from attn_flax.data import builders, catalogue

  if spec is not None and spec.open is not None:
    builder = spec.open(data_dir, size or spec.image_size, seed)
  else:
    builder = builders.open_builder(name, data_dir, download=download)
  return catalogue.load(name, builder, spec, size=size, splits=splits, annotations=annotations)


def _check_size(name: str, spec: DatasetSpec | None, size: int | None) -> None:
  if size is None:
    return
  if size < _LEAST_SIZE:
    raise UserError(f'--config.data.size={size} is impossible: choose {_LEAST_SIZE} at least')
  if spec is not None and spec.sizes and size not in spec.sizes:
    raise UserError(
      f'dataset {name!r} has no images of size {size}: choose --config.data.size from '
      f'{list(spec.sizes)}'
    )
