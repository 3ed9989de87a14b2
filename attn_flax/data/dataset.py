"""What is known of a dataset before it is read (`DatasetSpec`), and an opened one (`Dataset`)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from attn_flax.data.examples import Split
from attn_flax.data.image_file import MAX_PIXELS
from attn_flax.data.progress import progress
from attn_flax.data.records import Records, Source

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# A dataset of at most this many bytes of pixels may be held in memory, and on the device.
MEMORY_LIMIT_BYTES = 2 * 10**9
PHOTO_SIZE = 224  # The default height and width in pixels where images differ in size.
_CHUNK = 2048  # Images that are read into memory between two progress reports.
LARGE_SIZE = 96  # The largest size at which images that differ in size are held in memory.


class Part(NamedTuple):
  """A contiguous part of a stored split.

  Attributes:
    split: name of the stored split.
    start: where the part begins, as a share of the split in 0..1.
    stop: where it ends, likewise.
  """

  split: str
  start: float = 0.0
  stop: float = 1.0

  def indices(self, count: int) -> range:
    """The indices of its examples in a stored split of `count` examples."""
    return range(round(self.start * count), round(self.stop * count))


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
  """What is known of a dataset before it is read: an entry of `DATASETS`.

  Attributes:
    num_classes: number of classes; labels are 0..num_classes - 1.
    image_size: height and width in pixels of the images that the network gets.
    sizes: the values of `image_size` that are possible; empty: any.
    mean: mean of each channel that images are normalized with, in 0..1 units.
    std: standard deviation of each channel that images are normalized with, in 0..1 units.
    flip: whether the mirror image of an example has the same label, so that training may flip.
    crop_padding: pixels of padding on each side before a random crop in training; 0: no such crop.
    splits: number of examples of each split.
    annotated: whether there are masks or boxes.
    open: (data_dir, size, seed) -> prepared builder of `tensorflow-datasets`, whose features are
      'image', 'label' and, where annotated, 'mask' and 'bbox'; None: the builder of the catalog.
    parts: the part of a stored split that makes up each split; a split without an entry is stored
      whole under its own name.
  """

  num_classes: int
  image_size: int
  sizes: tuple[int, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  flip: bool
  crop_padding: int
  splits: Mapping[str, int]
  annotated: bool = False
  open: Callable[[str | None, int, int], 'tfds.core.DatasetBuilder'] | None = None
  parts: Mapping[str, Part] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A dataset that is ready to be read.

  Attributes:
    spec: its spec, with `image_size` and `splits` as loaded.
    class_names: the name of each class, in the order of the labels.
    splits: the splits that were requested, by name: in memory, or as records to be decoded.
    resize: length in pixels to which evaluation resizes the shorter side of an image before the
      center crop of `spec.image_size`; both are arguments of `decode.central_crop`.
    content: digest of all images and labels in their order, for a folder of images; None for
      datasets that are identified by their name.
    found: what a folder of images holds, in one line; '' for other datasets.
    files: for each split, the file of each example as a path below the folder of images; () where
      examples are not files.
  """

  spec: DatasetSpec
  class_names: tuple[str, ...]
  splits: dict[str, Split | Records]
  resize: int
  content: str | None = None
  found: str = ''
  files: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of the images as the pipelines deliver them."""
    return self.spec.image_size, self.spec.image_size, 3


def eval_resize(size: int) -> int:
  """Length in pixels of an image's shorter side before a center crop of `size`: 256 for 224."""
  return round(size * 256 / 224)


def unlisted(
  num_classes: int,
  size: int,
  *,
  small: bool,
  splits: Mapping[str, int],
  flip: bool = True,
  annotated: bool = False,
  parts: Mapping[str, Part] | None = None,
) -> DatasetSpec:
  """The spec of a dataset that `datasets.DATASETS` does not list.

  Args:
    num_classes: number of classes.
    size: height and width in pixels of the images that the network gets.
    small: whether images are read whole, and padded by an eighth of their side before random crops,
      as customary for CIFAR; others are cropped while they are decoded.
    splits: number of examples of each split.
    flip: whether the mirror image of an example has the same label.
    annotated: whether there are masks or boxes.
    parts: see `DatasetSpec`; None: each split is stored whole under its own name.
  """
  return DatasetSpec(
    num_classes=num_classes,
    image_size=size,
    sizes=(),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    flip=flip,
    crop_padding=size // 8 if small else 0,
    splits=splits,
    annotated=annotated,
    parts=parts or {},
  )


def fits_memory(examples: int, size: int, *, one_size: bool = False) -> bool:
  """Whether images are held in memory: those of one size or of a small size, if they fit.

  Args:
    examples: number of images.
    size: height and width in pixels of the images that the network gets.
    one_size: whether all images are stored at that size.
  """
  return (one_size or size <= LARGE_SIZE) and examples * size**2 * 3 <= MEMORY_LIMIT_BYTES


def assemble(
  sources: Mapping[str, Source],
  spec: DatasetSpec,
  class_names: Sequence[str],
  *,
  in_memory: bool,
  one_size: bool = False,
  upright: bool = False,
  annotated: bool = False,
  max_pixels: int = MAX_PIXELS,
) -> Dataset:
  """Makes a dataset of splits that are read into memory, or left as records to be decoded.

  Args:
    sources: the examples of each split.
    spec: the spec of the dataset; the numbers of examples of these splits are updated.
    class_names: the name of each class, in the order of the labels.
    in_memory: whether to read all images now.
    one_size: whether all images are stored at `spec.image_size`.
    upright: whether to follow EXIF orientations.
    annotated: whether to read masks and boxes.
    max_pixels: the most pixels that an encoded image may have.

  Raises:
    UserError: an example cannot be read.
  """
  size = spec.image_size
  resize = size if in_memory or one_size else eval_resize(size)
  opened: dict[str, Split | Records] = {}
  for split, source in sources.items():
    records = Records(source, size, resize, one_size, upright, annotated, max_pixels)
    opened[split] = _read_all(records, f'reading {split} images') if in_memory else records
  counts = {split: len(source) for split, source in sources.items()}
  spec = dataclasses.replace(spec, splits={**spec.splits, **counts})
  files = {split: source.files() for split, source in sources.items()}
  return Dataset(spec, tuple(class_names), opened, resize, files=files)


def _read_all(records: Records, what: str) -> Split:
  """Reads all examples, a chunk at a time; `what` names the work in the progress reports."""
  whole: dict[str, np.ndarray] = {}
  with progress(what, len(records), 'images') as advance:
    for start in range(0, max(len(records), 1), _CHUNK):
      part = records.take(range(start, min(start + _CHUNK, len(records))))
      for name, values in vars(part).items():
        if values is None:
          continue
        if name not in whole:
          whole[name] = np.empty((len(records), *values.shape[1:]), values.dtype)
        whole[name][start : start + len(values)] = values
      advance(len(part))
  return Split(**whole)
