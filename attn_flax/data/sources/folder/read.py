"""A user's own images: `<dir>/train/<class>/*`; other splits have folders, or are cut off from it.

ImageNet's class folders, `train/<wnid>/*` and `val/<wnid>/*`, are read the same way.
"""

import dataclasses
import hashlib
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from attn_flax.data.dataset import (
  LARGE_SIZE,
  PHOTO_SIZE,
  Dataset,
  DatasetSpec,
  assemble,
  fits_memory,
  unlisted,
)
from attn_flax.data.progress import say
from attn_flax.data.records import Row, Source
from attn_flax.data.sources.folder import check
from attn_flax.data.sources.folder.layout import (
  Layout,
  check_classes,
  describe,
  hash_share,
  read_layout,
  select,
)
from attn_flax.errors import UserError
from attn_flax.files import local_path, read_file

_IMAGENET_HELD_OUT = {'validation': (0.0, 0.01)}
_IMAGENET_FOLDERS = {'train': ('train',), 'test': ('val',)}
# The size for images of many sizes, by the median of their shorter sides: (at least, size).
_SIZES = ((128, PHOTO_SIZE), (64, 64), (0, 32))
_SAMPLE = 500
_NAMED = 5  # Broken images that are named.


class FolderSource(Source):
  """Image files, see `records.Source`."""

  keys = frozenset({'image', 'label'})

  def __init__(self, root: pathlib.Path, files: Sequence[str], labels: Sequence[int]):
    """Keeps `files`, paths below `root`, and their labels."""
    self._root = str(root)
    self._files = list(files)
    self._labels = np.array(labels, np.int32)

  def __len__(self) -> int:
    return len(self._files)

  def rows(self, indices: Sequence[int]) -> list[Row]:
    """Reads files."""
    return [{'image': self._content(i), 'label': int(self._labels[i])} for i in indices]

  def _content(self, index: int) -> bytes:
    try:
      return read_file(self.name(index))
    except OSError as error:
      raise UserError(f'cannot read {self.name(index)!r}: {error.strerror}') from error

  def labels(self) -> np.ndarray:
    """All labels, [N] int32."""
    return self._labels

  def name(self, index: int) -> str:
    """The file's path."""
    return os.path.join(self._root, self._files[index])

  def files(self) -> Sequence[str]:
    """All files, as paths below the folder."""
    return self._files


def load(
  data_dir: str | None,
  *,
  size: int | None,
  seed: int,
  splits: Sequence[str],
  max_bad: int,
  max_pixels: int,
  enlarge: bool,
  alone: str | None = None,
) -> Dataset:
  """Opens a folder of images.

  A split that has no folder is cut off from `train`. Whether a file belongs to it depends on a hash
  of the file's path and the seed, so that adding files moves no other file.

  Args:
    data_dir: the folder.
    size: height and width in pixels; None: 224, or less where the images are small, and smaller
      images are enlarged.
    seed: seed of the hash.
    splits: names of splits, of 'train', 'validation' and 'test'.
    max_bad: number of broken images in these splits that may be skipped, with warnings.
    max_pixels: the most pixels that an image may have; larger images count as broken.
    enlarge: whether images that are smaller than `size` are enlarged instead of being an error.
    alone: the one of `splits` that is opened alone where there is no folder `train`; None: that is
      an error.

  Raises:
    UserError: the folder or an image in it cannot be used.
  """
  if data_dir is None:
    raise UserError('--config.data.name=folder needs --config.data.dir=/path/to/images')
  whole = read_layout(data_dir, seed, alone=alone)
  layout = select(whole, [split for split in splits if split in whole.splits])
  check_classes(layout)
  sample = _sample(whole, seed) if size is None else []
  names = [name for files in layout.splits.values() for part in files.values() for name in part]
  checked = check.check(layout.root, list(dict.fromkeys([*names, *sample])), max_pixels)
  enlarge = enlarge or size is None
  size = size or _own_size([checked[name][:2] for name in sample if not checked[name].reason])
  checked = {name: checked[name] for name in names}
  layout, warnings = _without_broken(layout, checked, max_bad)
  # Printed only now, so that an error is the only line.
  warnings += [*layout.warnings, *check_classes(layout)]
  _warn([*warnings, *_of_small(layout.root, checked, size, enlarge)])

  sources = _sources(layout)
  in_memory = fits_memory(sum(map(len, sources.values())), size)
  counts = {split: len(source) for split, source in sources.items()}
  spec = unlisted(len(layout.class_names), size, small=in_memory, splits=counts)
  dataset = assemble(
    sources,
    spec,
    layout.class_names,
    in_memory=in_memory,
    upright=True,
    max_pixels=max_pixels,
  )
  return dataclasses.replace(
    dataset, content=_content(layout, checked), found=describe(layout, size)
  )


def holds_imagenet(data_dir: str | None) -> bool:
  """Whether a folder holds ImageNet's class folders."""
  if data_dir is None:
    return False
  folder = local_path(data_dir, '--config.data.dir') / 'train'
  return folder.is_dir() and any(folder.glob('n[0-9]*[0-9]/'))


def load_imagenet(
  data_dir: str, spec: DatasetSpec, *, size: int | None, seed: int, splits: Sequence[str]
) -> Dataset:
  """Opens ImageNet's class folders; the official validation images are the test split.

  The files are not checked, and their EXIF orientations are ignored, as is customary.

  Args:
    data_dir: the folder that holds `train/<wnid>/*` and `val/<wnid>/*`.
    spec: the entry of `DATASETS`.
    size: height and width in pixels; None: the spec's.
    seed: seed of the hash that cuts the validation split off from `train`.
    splits: names of splits.

  Raises:
    UserError: the folder does not hold images of all classes.
  """
  root = local_path(data_dir, '--config.data.dir')
  if not (root / 'val').is_dir():
    raise UserError(f'{str(root)!r} has no folder val: add it, the test split of imagenet2012')
  layout = read_layout(data_dir, seed, held_out=_IMAGENET_HELD_OUT, folders=_IMAGENET_FOLDERS)
  if len(layout.class_names) != spec.num_classes:
    raise UserError(
      f'imagenet2012 has {spec.num_classes} classes and {str(root / "train")!r} holds '
      f'{len(layout.class_names)}: for another choice of classes use --config.data.name=folder'
    )
  layout = select(layout, splits)
  _warn([*layout.warnings, *check_classes(layout, whole=True)])
  spec = dataclasses.replace(spec, image_size=size or spec.image_size)
  dataset = assemble(_sources(layout), spec, layout.class_names, in_memory=False)
  return dataclasses.replace(dataset, found=describe(layout, spec.image_size))


def _sources(layout: Layout) -> dict[str, FolderSource]:
  sources = {}
  for split, files in layout.splits.items():
    pairs = [
      (name, label)
      for label, class_name in enumerate(layout.class_names)
      for name in files[class_name]
    ]
    sources[split] = FolderSource(layout.root, *map(list, zip(*pairs, strict=True)))
  return sources


def _without_broken(
  layout: Layout, checked: Mapping[str, check.Checked], max_bad: int
) -> tuple[Layout, list[str]]:
  """Leaves broken images out; returns the rest, and warnings about those left out.

  Raises:
    UserError: more than `max_bad` images are broken.
  """
  broken = {name: found.reason for name, found in checked.items() if found.reason}
  if not broken:
    return layout, []
  described = [f'{layout.root / name}: {reason}' for name, reason in broken.items()]
  if len(broken) > max_bad:
    more = f'; and {len(broken) - _NAMED} more' if len(broken) > _NAMED else ''
    is_large = any(found.height for found in checked.values() if found.reason)
    higher = ' read larger ones with a higher --config.data.max_pixels,' if is_large else ''
    raise UserError(
      f'{len(broken)} of {len(checked)} images cannot be used ({"; ".join(described[:_NAMED])}'
      f'{more}): fix or remove them,{higher} or skip them with '
      f'--config.data.max_bad={len(broken)}'
    )
  splits = {
    split: {
      class_name: [name for name in names if name not in broken]
      for class_name, names in files.items()
    }
    for split, files in layout.splits.items()
  }
  images = 'image' if len(broken) == 1 else 'images'
  described[_NAMED:] = [f'{len(broken)} broken {images} of {len(checked)} in {layout.root}']
  passed_over = {**layout.passed_over, 'broken': list(broken)}
  layout = layout._replace(splits=splits, passed_over=passed_over)
  return layout, [f'skipped {line}' for line in described]


def _content(layout: Layout, checked: Mapping[str, check.Checked]) -> str:
  """A digest of all images and labels in their order, which does not depend on their paths."""
  whole = hashlib.sha256()
  for split in sorted(layout.splits):
    for label, class_name in enumerate(layout.class_names):
      for name in layout.splits[split][class_name]:
        whole.update(f'{split} {label} {checked[name].digest}\n'.encode())
  return whole.hexdigest()


def _warn(warnings: Sequence[str]) -> None:
  for warning in warnings:
    say(f'warning: {warning}')


def _sample(layout: Layout, seed: int) -> list[str]:
  """The training images that decide the size; adding images to the folder replaces few of them.

  Where a split was opened alone, they are those of that split.
  """
  files = layout.splits.get('train') or next(iter(layout.splits.values()))
  names = [name for part in files.values() for name in part]
  return sorted(names, key=lambda name: hash_share(name, seed))[:_SAMPLE]


def _own_size(shapes: Sequence[tuple[int, int]]) -> int:
  """The size in pixels that suits images of these heights and widths."""
  if not shapes:
    return PHOTO_SIZE
  height, width = shapes[0]
  if height == width <= LARGE_SIZE and all(shape == (height, width) for shape in shapes):
    return height
  shorter = statistics.median(map(min, shapes))
  return next(size for least, size in _SIZES if shorter >= least)


def _of_small(
  root: pathlib.Path, checked: Mapping[str, check.Checked], size: int, enlarge: bool
) -> list[str]:
  """A warning about images that are enlarged; raises `UserError` where none may be."""
  shapes = {name: found[:2] for name, found in checked.items() if not found.reason}
  small = {name: shape for name, shape in shapes.items() if min(shape) < size}
  if not small:
    return []
  name, (height, width) = min(small.items(), key=lambda item: min(item[1]))
  verb = 'is' if len(small) == 1 else 'are'
  found = f'{len(small)} of {len(shapes)} images {verb} smaller than {size} pixels'
  smallest = f'{root / name} ({width} x {height})'
  if not enlarge:
    raise UserError(
      f'{found}, such as {smallest}: choose --config.data.size={min(height, width)} '
      'or less, leave them out, or enlarge them with --config.data.enlarge=True'
    )
  return [
    f'{found} and {verb} enlarged, most of all {smallest}; a smaller --config.data.size avoids that'
  ]
