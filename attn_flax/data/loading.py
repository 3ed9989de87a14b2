"""Opens datasets by name, in memory or as records.

They are read through `tensorflow-datasets` without TensorFlow, or from a folder of images.
"""

import os
from collections.abc import Iterable

from attn_flax.data.dataset import Dataset, DatasetSpec
from attn_flax.data.datasets import DATASETS, FOLDER, SPLITS
from attn_flax.data.image_file import MAX_PIXELS, MOST_PIXELS
from attn_flax.data.normalization import check_normalize, normalized
from attn_flax.data.progress import say
from attn_flax.data.sources.cluttered_digits import generate
from attn_flax.data.sources.folder import read
from attn_flax.errors import (
  MOST_SEED,
  UserError,
  check_choice,
  check_flags,
  check_range,
  check_type,
  shown,
)

_LEAST_SIZE, _MOST_SIZE = 8, 2**14


def load(
  name: str,
  *,
  data_dir: str | None = None,
  size: int | None = None,
  seed: int = generate.DEFAULT_SEED,
  splits: Iterable[str] = SPLITS,
  annotations: bool = False,
  download: bool = False,
  max_bad: int = 0,
  max_pixels: int = MAX_PIXELS,
  enlarge: bool = False,
  normalize: str = 'dataset',
  alone: str | None = None,
) -> Dataset:
  """Opens splits of a dataset; cluttered digits are generated on first use.

  Images that are small, or that are all stored at the requested size, are read into memory
  (`Split`) where they fit; others are decoded when they are needed (`Records`).
  `pipeline.open.open_pipeline` takes both. For a folder of images, one line on stderr says what it
  holds and how it is used.

  Args:
    name: a key of `DATASETS`; a dataset of the catalog of tensorflow-datasets, such as
      'oxford_iiit_pet' or 'eurosat/rgb', or the path of a prepared one; or 'folder', a folder of
      images, `train/<class>/*` and so on.
    data_dir: root folder of the datasets; None: the environment variable TFDS_DATA_DIR, else the
      default of tensorflow-datasets. For 'folder', the folder of images itself; for 'imagenet2012',
      it may also be the folder that holds train/<wnid> and val/<wnid>.
    size: height and width in pixels; None: the dataset's default.
    seed: seed of cluttered digits, and of the splits that are cut off from a folder's training
      images; other datasets ignore it.
    splits: names of the splits to read, of 'train', 'validation' and 'test'.
    annotations: whether to read masks and boxes, too.
    download: whether to download a dataset that is missing.
    max_bad: number of broken images of a folder that may be skipped.
    max_pixels: the most pixels that an image of a folder may have, up to 2e9: Pillow takes 4 bytes
      of memory for each while it decodes the image.
    enlarge: whether images of a folder that are smaller than `size` are enlarged instead of being
      an error.
    normalize: mean and deviation of the channels, see `normalization.normalized`.
    alone: the one of `splits` that is opened alone where a folder of images has no training images,
      for a trained network to be scored; None: such a folder is an error.

  Returns:
    The dataset with these splits.

  Raises:
    UserError: an unknown dataset, size or split, a missing or unreadable dataset, annotations that
      it does not have, or a `data_dir` that cannot be written to.
  """
  check_type('name', name, str, "a dataset's name")
  if data_dir is not None:
    check_type('data_dir', data_dir, str | os.PathLike, 'the path of a folder')
  check_range('data.seed', seed, 0, MOST_SEED, whole=True)
  check_range('data.max_bad', max_bad, 0, whole=True)
  check_range('data.max_pixels', max_pixels, 1, MOST_PIXELS, whole=True)
  check_flags(annotations=annotations, download=download, enlarge=enlarge)
  check_normalize(normalize)
  if isinstance(splits, str | bytes) or not isinstance(splits, Iterable):
    raise UserError(f'splits={shown(splits)} is impossible; give names from {", ".join(SPLITS)}')
  splits = tuple(splits)
  spec = DATASETS.get(name)
  for split in splits:
    check_choice(f'split of {name}', split, SPLITS if spec is None else spec.splits)
  _check_size(name, spec, size)
  if annotations and (name == FOLDER or (spec is not None and not spec.annotated)):
    annotated = ', '.join(other for other in DATASETS if DATASETS[other].annotated)
    raise UserError(
      f'dataset {name!r} has no masks or boxes: choose one that has, such as {annotated}'
    )

  if name == FOLDER:
    dataset = read.load(
      data_dir,
      size=size,
      seed=seed,
      splits=splits,
      max_bad=max_bad,
      max_pixels=max_pixels,
      enlarge=enlarge,
      alone=alone,
    )
  else:
    dataset = _load_known(name, data_dir, size, seed, splits, annotations, download)
  dataset, how = normalized(dataset, normalize)
  if dataset.found and splits:
    say(f'{dataset.found}; {how}')
  return dataset


def _load_known(
  name: str,
  data_dir: str | None,
  size: int | None,
  seed: int,
  splits: tuple[str, ...],
  annotations: bool,
  download: bool,
) -> Dataset:
  """Opens a dataset other than a user's folder of images, see `load`."""
  spec = DATASETS.get(name)
  if name == 'imagenet2012' and spec is not None:
    if data_dir is not None and read.holds_imagenet(data_dir):
      return read.load_imagenet(data_dir, spec, size=size, seed=seed, splits=splits)

  from attn_flax.data.sources.tfds import builders, catalog  # Need fcntl, which Windows lacks.

  if spec is not None and spec.open is not None:
    builder = spec.open(data_dir, size or spec.image_size, seed)
  else:
    builder = builders.open_builder(name, data_dir, download=download, known=(*DATASETS, FOLDER))
  return catalog.load(name, builder, spec, size=size, splits=splits, annotations=annotations)


def _check_size(name: str, spec: DatasetSpec | None, size: int | None) -> None:
  if size is None:
    return
  check_range('data.size', size, _LEAST_SIZE, _MOST_SIZE, whole=True)
  if spec is not None and spec.sizes and size not in spec.sizes:
    raise UserError(
      f'dataset {name!r} has no images of size {size}: choose --config.data.size from '
      f'{list(spec.sizes)}'
    )
