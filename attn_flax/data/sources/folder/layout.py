"""Which files of a folder of images belong to which class and split."""

import difflib
import hashlib
import os
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from attn_flax.data.files import local_path
from attn_flax.errors import UserError

# Where a split lies, in shares of the hash's range, that is cut off from the training images.
HELD_OUT = {'validation': (0.0, 0.1), 'test': (0.1, 0.2)}
# Names under which a split may stand in the folder.
_FOLDERS = {'train': ('train',), 'validation': ('val', 'validation'), 'test': ('test',)}
# Files that operating systems leave in folders, beside hidden ones.
_NOT_IMAGES = ('thumbs.db', 'desktop.ini')

Files = dict[str, list[str]]  # Paths below the root, by class.


class Layout(NamedTuple):
  """What a folder holds.

  Attributes:
    root: the folder.
    class_names: in order, so that a class's place is its label.
    splits: the files of each split by class.
    held_out: the splits that were cut off from 'train'.
  """

  root: pathlib.Path
  class_names: list[str]
  splits: dict[str, Files]
  held_out: Collection[str]


def read_layout(
  data_dir: str,
  seed: int,
  *,
  held_out: Mapping[str, tuple[float, float]] = HELD_OUT,
  folders: Mapping[str, Sequence[str]] = _FOLDERS,
) -> Layout:
  """Lists `<data_dir>/<split>/<class>/*`.

  A split that has no folder is cut off from 'train': a file belongs to it or not by a hash of its
  path and the seed, so that adding files moves no other.

  Args:
    data_dir: the folder.
    seed: seed of the hash.
    held_out: for each split that may be cut off, from where to where the hash lies, in 0..1.
    folders: the names that a split's folder may have.

  Raises:
    UserError: there is no such folder, no training images, fewer than two classes, or a class
      that only another split has.
  """
  root = local_path(data_dir, '--config.data.dir')
  if not root.is_dir():
    what = 'is no folder' if root.exists() else 'does not exist'
    raise UserError(f'{str(root)!r} {what}: name the folder of the images with --config.data.dir')
  found = {split: _find_folder(root, names) for split, names in folders.items()}
  train = found.pop('train')
  if train is None:
    holds = ', '.join(sorted(path.name for path in root.iterdir())[:5]) or 'nothing'
    raise UserError(
      f'{str(root)!r} has no folder train (it holds {holds}): the images belong into '
      'train/<class>/ and, if you split them yourself, val/<class>/ and test/<class>/'
    )
  files = _list_classes(root, train)
  class_names = sorted(files, key=natural_key)
  if len(class_names) < 2:
    holds = f'one class, {class_names[0]!r}' if class_names else 'no folders of classes'
    raise UserError(f'{str(train)!r} holds {holds}: a classifier takes at least two')
  splits: dict[str, Files] = {}
  for split, folder in found.items():
    if folder is not None:
      own = _list_classes(root, folder)
      _check_known(folder, own, class_names)
      splits[split] = {name: own.get(name, []) for name in class_names}
  missing = {split: share for split, share in held_out.items() if split not in splits}
  splits |= _hold_out(files, train, missing, seed)
  return Layout(root, class_names, splits, missing)


def check_classes(layout: Layout) -> list[str]:
  """Checks that each split has images of every class.

  In a split that the user made, a class without images is a mistake; in one that was cut off it is
  chance, and only a warning.

  Returns:
    Warnings about classes that chance left out.

  Raises:
    UserError: a split, or a class where it has to be there, has no images.
  """
  warnings = []
  for split, files in layout.splits.items():
    empty = [name for name, part in files.items() if not part]
    if not empty:
      continue
    shown = ', '.join(map(repr, empty[:5])) + (', ...' if len(empty) > 5 else '')
    what = f'{len(empty)} of {len(files)} classes ({shown})'
    if split not in layout.held_out:
      raise UserError(
        f'the {split} split of {str(layout.root)!r} has no images of {what}: add some, or remove '
        'these classes from all splits'
      )
    if len(empty) == len(files):
      raise UserError(
        f'{str(layout.root)!r} has too few images to cut a {split} split off from train: add '
        'images, or make a folder for that split'
      )
    warnings.append(f'the {split} split, cut off from {layout.root}/train, has no images of {what}')
  return warnings


def natural_key(name: str) -> tuple:
  """Sorts 'class10' behind 'class9', and by case only where nothing else differs."""
  parts = re.split(r'([0-9]+)', name)
  return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def hash_share(name: str, seed: int) -> float:
  """A number in 0..1 that depends on the path of a file below its split, and the seed, alone."""
  digest = hashlib.sha256(f'{seed}/{name}'.encode(errors='surrogateescape')).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def _find_folder(root: pathlib.Path, names: Sequence[str]) -> pathlib.Path | None:
  found = [root / name for name in names if (root / name).is_dir()]
  if len(found) > 1:
    raise UserError(f'{str(root)!r} holds both {names[0]} and {names[1]}: keep one of them')
  return found[0] if found else None


def _list_classes(root: pathlib.Path, folder: pathlib.Path) -> Files:
  """The files below each of a split's class folders, in order; hidden ones do not count."""
  files = {}
  for entry in sorted(folder.iterdir()):
    if entry.is_dir() and not entry.name.startswith('.'):
      own = []
      for place, folders, names in os.walk(entry):
        folders[:] = [name for name in folders if not name.startswith('.')]
        below = pathlib.PurePath(place).relative_to(root).as_posix()
        own += [f'{below}/{name}' for name in names if may_be_image(name)]
      files[entry.name] = sorted(own)
  return files


def may_be_image(name: str) -> bool:
  """Whether a file of this name may hold an image: not hidden, nor a file manager's."""
  return not name.startswith('.') and name.lower() not in _NOT_IMAGES


def _check_known(folder: pathlib.Path, names: Collection[str], class_names: Sequence[str]) -> None:
  if not names:
    raise UserError(f'{str(folder)!r} holds no folders of classes: sort its images into them')
  for name in names:
    if name not in class_names:
      near = difflib.get_close_matches(name, class_names, n=1)
      hint = f'; did you mean {near[0]!r}?' if near else ':'
      raise UserError(
        f'{str(folder)!r} has a class {name!r} that train lacks{hint} rename it, remove it, or add '
        'images of it to train'
      )


def _hold_out(
  files: Files, train: pathlib.Path, held_out: Mapping[str, tuple[float, float]], seed: int
) -> dict[str, Files]:
  """Cuts splits off from the training files."""
  splits: dict[str, Files] = {split: {name: [] for name in files} for split in ('train', *held_out)}
  for class_name, names in files.items():
    for name in names:
      share = hash_share(name.removeprefix(f'{train.name}/'), seed)
      inside = (split for split, (start, stop) in held_out.items() if start <= share < stop)
      splits[next(inside, 'train')][class_name].append(name)
  return splits
