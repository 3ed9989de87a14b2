"""The datasets that are known by name, in one table."""

from typing import TYPE_CHECKING

from attn_flax.data.dataset import IMAGENET_MEAN, IMAGENET_STD, PHOTO_SIZE, DatasetSpec, Part
from attn_flax.data.sources.cluttered_digits import generate

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

FOLDER = 'folder'  # The name that stands for a user's own folder of images.
SPLITS = ('train', 'validation', 'test')


def _open_cluttered_digits(
  data_dir: str | None, size: int, seed: int
) -> 'tfds.core.DatasetBuilder':
  from attn_flax.data.sources.cluttered_digits import build  # Imports tensorflow-datasets.

  return build.prepare(data_dir, size, seed)


_CIFAR_PARTS = {
  'train': Part('train', 0, 0.9),
  'validation': Part('train', 0.9, 1),
  'test': Part('test'),
}


DATASETS = {
  'cluttered_digits': DatasetSpec(
    num_classes=generate.NUM_CLASSES,
    image_size=32,
    sizes=tuple(generate.DIFFICULTIES),
    # Measured at the default size and seed; those at 64 x 64 pixels differ by less than 0.03.
    mean=(0.444, 0.426, 0.405),
    std=(0.269, 0.252, 0.259),
    flip=False,  # Most mirrored digits are no longer digits.
    crop_padding=2,
    splits=generate.SPLIT_SIZES,
    annotated=True,
    open=_open_cluttered_digits,
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
    # The labels of the official test split are not public; its validation split serves as the test.
    parts={
      'train': Part('train', 0, 0.99),
      'validation': Part('train', 0.99, 1),
      'test': Part('validation'),
    },
  ),
}
