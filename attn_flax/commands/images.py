"""Finds image files that are named on the command line, and reads them for a trained run."""

import pathlib
import sys
from collections.abc import Container, Iterator, Sequence

import numpy as np

from attn_flax.data.image_file import BadImage, TooLarge
from attn_flax.data.sources.folder.listing import in_words, list_files, natural_key
from attn_flax.errors import UserError
from attn_flax.files import composed, describe, is_regular
from attn_flax.training.artifacts import File
from attn_flax.training.trained_run import TrainedRun, batch_size


def find_images(paths: Sequence[str]) -> list[pathlib.Path]:
  """The files named, and those in and below the folders named, in natural order.

  Folders of training images are listed by the same rules; stderr names files that are skipped.

  Raises:
    UserError: a path does not exist, or there is no file at all.
  """
  found: list[pathlib.Path] = []
  for name in paths:
    path = pathlib.Path(name)
    if path.is_dir():
      found += _inside(path)
    elif is_regular(path):
      found.append(path)
    else:
      raise UserError(f'{name} {describe(path)}; name image files or folders in --images')
  if not found:
    raise UserError(f'there are no images in {", ".join(paths) or "--images"}; name one')
  return found


def class_folder(path: pathlib.Path, named: Sequence[str], classes: Container[str]) -> str | None:
  """The folder of an image that has the name of a class; None if there is none.

  As in a folder of training images, images may lie in folders below that of their class.

  Args:
    path: the image's file.
    named: what was named on the command line: folders above these do not count.
    classes: the names of the classes, see `files.composed`.
  """
  tops = {pathlib.Path(name).absolute() for name in named}
  inside = [path.absolute().parent]
  while inside[-1] not in tops and tops & set(inside[-1].parents):
    inside.append(inside[-1].parent)
  names = [composed(folder.name) for folder in reversed(inside)]
  return next((name for name in names if name in classes), None)


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files below a folder, in natural order; names what is skipped on stderr."""
  listing = list_files(folder)
  files = [folder / name for name in listing.files]
  for special in (path for path in files if not is_regular(path)):
    print(f'{special} {describe(special)} and is left out', file=sys.stderr)
  if unused := in_words(listing.passed_over):
    print(f'skipped in {folder}: {unused}', file=sys.stderr)
  return sorted(filter(is_regular, files), key=lambda path: natural_key(str(path)))


def read_images(
  run: TrainedRun, paths: Sequence[pathlib.Path]
) -> tuple[list[pathlib.Path], np.ndarray, dict[str, str]]:
  """Reads images, and leaves out those that cannot be read.

  Returns:
    The files that could be read, their images [N, size, size, 3] uint8, and for each of the others
    the reason why not.
  """
  good, images, broken = [], [], {}
  for path in paths:
    try:
      images.append(run.read(path))
    except TooLarge as error:
      broken[str(path)] = f"{error}; make it smaller, or raise that in the run's {File.CONFIG}"
    except BadImage as error:
      broken[str(path)] = str(error)
    else:
      good.append(path)
  empty = np.zeros((0, run.size, run.size, 3), np.uint8)
  return good, np.stack(images) if images else empty, broken


def read_batches(
  run: TrainedRun, paths: Sequence[pathlib.Path]
) -> Iterator[tuple[list[pathlib.Path], np.ndarray, dict[str, str]]]:
  """Yields what `read_images` returns, for `batch_size` files at a time."""
  size = batch_size(paths)
  for start in range(0, len(paths), size):
    yield read_images(run, paths[start : start + size])
