"""The class and the split of each file in a folder of images."""

import collections
import difflib
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from attn_flax.data.progress import progress
from attn_flax.data.sources.folder.listing import (
  SYSTEM,
  PassedOver,
  check_links,
  in_words,
  is_folder,
  is_system,
  list_files,
  natural_key,
  scan,
)
from attn_flax.errors import UserError
from attn_flax.files import composed, local_path

# For each split that may be cut off from the training images, its range of the hash in 0..1.
HELD_OUT = {'validation': (0.0, 0.1), 'test': (0.1, 0.2)}
# The names that the folder of a split may have, in upper or lower case.
FOLDERS = {
  'train': ('train', 'training'),
  'validation': ('val', 'valid', 'validation', 'dev'),
  'test': ('test', 'testing'),
}
_NO_SPLIT, _NO_CLASS = 'outside the splits', 'outside the classes'
_NAMED = 5  # Classes that an error or a warning names.

Files = dict[str, list[str]]  # Paths below the root, by class.


class Layout(NamedTuple):
  """What a folder holds.

  Attributes:
    root: the folder.
    class_names: in the order of the labels.
    splits: the files of each split by class.
    folders: the name of the folder of each split that has one; the others are cut off from 'train'.
    passed_over: paths that are skipped, by reason.
    warnings: what the user should know about the classes.
  """

  root: pathlib.Path
  class_names: list[str]
  splits: dict[str, Files]
  folders: dict[str, str]
  passed_over: PassedOver
  warnings: list[str]


def read_layout(
  data_dir: str,
  seed: int,
  *,
  held_out: Mapping[str, tuple[float, float]] = HELD_OUT,
  folders: Mapping[str, Sequence[str]] = FOLDERS,
  alone: str | None = None,
) -> Layout:
  """Lists `<data_dir>/<split>/<class>/*`.

  A split that has no folder is cut off from 'train'. Whether a file belongs to it depends on a hash
  of the file's path and the seed, so that adding files moves no other file.

  Args:
    data_dir: the folder.
    seed: seed of the hash.
    held_out: for each split that may be cut off, its range of the hash in 0..1.
    folders: for each split, the names that its folder may have.
    alone: the split that is listed alone where there is no folder 'train'; None: that is an error.

  Raises:
    UserError: there is no such folder, no training images, fewer than two classes, a class that
      only another split has, or a folder that cannot be read.
  """
  root = local_path(data_dir, '--config.data.dir')
  if not root.is_dir():
    what = 'is not a folder' if root.exists() else 'does not exist'
    raise UserError(f'{str(root)!r} {what}: name the folder of the images with --config.data.dir')
  passed_over: PassedOver = collections.defaultdict(list)
  found = _find_folders(root, folders, passed_over)
  reference = 'train'
  if 'train' not in found and alone is not None and alone in found:
    reference, found = alone, {alone: found[alone]}
  elif 'train' not in found:
    holds = ', '.join(entry.name for entry in scan(root)[:5]) or 'nothing'
    enough = f'; to score a run, {folders[alone][0]}/<class>/ is enough' if alone else ''
    raise UserError(
      f'{str(root)!r} has no folder train (it holds {holds}): the images belong in '
      f'train/<class>/ and, if you split them yourself, val/<class>/ and test/<class>/{enough}'
    )
  with progress(f'listing {root}') as advance:
    listed = {
      split: _list_classes(root, name, passed_over, advance) for split, name in found.items()
    }
  classes = [f'{found[split]}/{name}' for split, own in listed.items() for name in own]
  linked = check_links(root, [*found.values(), *classes])
  files, warnings = _merge_forms(listed.pop(reference), root / found[reference])
  class_names = sorted(files, key=natural_key)
  if len(class_names) < 2:
    holds = f'one class, {class_names[0]!r}' if class_names else 'no folders of classes'
    train = str(root / found[reference])
    raise UserError(f'{train!r} holds {holds}: a classifier needs at least two')
  splits = {
    split: _of_known(root / found[split], own, class_names) for split, own in listed.items()
  }
  if reference == 'train':
    missing = {split: share for split, share in held_out.items() if split not in splits}
    splits |= _hold_out(files, found['train'], missing, seed)
  else:
    splits[reference] = files
  return Layout(root, class_names, splits, found, dict(passed_over), [*linked, *warnings])


def check_classes(layout: Layout, *, whole: bool = False) -> list[str]:
  """Checks that training has images of every class, and each other split has some images.

  Args:
    layout: what the folder holds.
    whole: whether all splits that have a folder must have images of every class.

  Returns:
    Warnings about classes of which a split has no images.

  Raises:
    UserError: a split has no images, or none of a class that it needs.
  """
  warnings = []
  for split, files in layout.splits.items():
    empty = [name for name, part in files.items() if not part]
    if not empty:
      continue
    shown = ', '.join(map(repr, empty[:_NAMED])) + (', ...' if len(empty) > _NAMED else '')
    what = f'{len(empty)} of {len(files)} classes ({shown})'
    is_cut_off = split not in layout.folders
    if is_cut_off and len(empty) == len(files):
      raise UserError(
        f'{str(layout.root)!r} has too few images to cut a {split} split off from train: add '
        'images, or make a folder for that split'
      )
    if not is_cut_off and (whole or split == 'train' or len(empty) == len(files)):
      these = 'this class' if len(empty) == 1 else 'these classes'
      raise UserError(
        f'the {split} split of {str(layout.root)!r} has no images of {what}: add some, or remove '
        f'{these} from all splits'
      )
    where = f'cut off from {layout.root}/{layout.folders["train"]}'
    where = where if is_cut_off else f'in {layout.root}/{layout.folders[split]}'
    warnings.append(f'the {split} split, {where}, has no images of {what}')
  return warnings


def select(layout: Layout, splits: Sequence[str]) -> Layout:
  """A layout with only the given splits."""
  return layout._replace(splits={split: layout.splits[split] for split in splits})


def describe(layout: Layout, size: int) -> str:
  """One line: what was found, used and skipped, with the side of the images in pixels."""
  used = []
  for split, files in layout.splits.items():
    count = sum(map(len, files.values()))
    folder = layout.folders.get(split)
    where = f'{folder}/' if folder else f'cut off from {layout.folders["train"]}/'
    used.append(f'{split} {count:,} ({where})')
  return (
    f'{layout.root}: {len(layout.class_names):,} classes; images: {", ".join(used)}; '
    f'{size} x {size} pixels; skipped: {in_words(layout.passed_over) or "nothing"}'
  )


def hash_share(name: str, seed: int) -> float:
  """A number in 0..1 that depends only on the seed and on a file's path below its split."""
  digest = hashlib.sha256(f'{seed}/{name}'.encode(errors='surrogateescape')).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def _find_folders(
  root: pathlib.Path, names: Mapping[str, Sequence[str]], passed_over: PassedOver
) -> dict[str, str]:
  """The folder of each split that has one; adds what else the root holds to `passed_over`."""
  split_of = {name: split for split, all_names in names.items() for name in all_names}
  found: dict[str, str] = {}
  for entry in scan(root):
    split = split_of.get(entry.name.lower())
    if is_system(entry.name):
      passed_over[SYSTEM].append(entry.name)
    elif split is None or not _leads_to_folder(entry):
      passed_over[_NO_SPLIT].append(f'{entry.name}/' if is_folder(entry) else entry.name)
    elif split in found:
      raise UserError(f'{str(root)!r} holds both {found[split]} and {entry.name}: keep one of them')
    else:
      found[split] = entry.name
  return found


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
  """Whether an entry is a folder or a link to one; raises `UserError` for a broken link."""
  if entry.is_symlink() and not os.path.exists(entry.path):
    raise UserError(f'{entry.path!r} is a broken link: repair or remove it')
  return is_folder(entry)


def _list_classes(
  root: pathlib.Path, split: str, passed_over: PassedOver, advance: Callable[[int], object]
) -> Files:
  """The files below each class folder of a split, in order."""
  files = {}
  for entry in scan(root / split):
    below = f'{split}/{entry.name}'
    if is_system(entry.name):
      passed_over[SYSTEM].append(below)
    elif not _leads_to_folder(entry):
      passed_over[_NO_CLASS].append(below)
    else:
      listing = list_files(root / below, advance)
      files[entry.name] = sorted(f'{below}/{name}' for name in listing.files)
      for what, names in listing.passed_over.items():
        passed_over[what] += [f'{below}/{name}' for name in names]
  return files


def _merge_forms(files: Files, folder: pathlib.Path) -> tuple[Files, list[str]]:
  """Merges classes whose names differ only in their Unicode form; returns warnings, too."""
  alike = collections.defaultdict(list)
  for name in files:
    alike[composed(name)].append(name)
  merged, warnings = {}, []
  for whole, names in alike.items():
    # A single name keeps its form: runs have stored it, and the order of the classes depends on it.
    merged[names[0] if len(names) == 1 else whole] = sorted(sum((files[n] for n in names), []))
    if len(names) > 1:
      warnings.append(
        f'{folder} has {len(names)} folders {whole!r} that differ only in their Unicode form; '
        'they are one class'
      )
  by_case = collections.defaultdict(list)
  for name in merged:
    by_case[composed(name).casefold()].append(name)
  warnings += [
    f'the classes {" and ".join(map(repr, names))} of {folder} differ only in case'
    for names in by_case.values()
    if len(names) > 1
  ]
  return merged, warnings


def _of_known(folder: pathlib.Path, files: Files, class_names: Sequence[str]) -> Files:
  """The files of a split under the names of the training classes, whatever their Unicode form.

  Raises:
    UserError: the split has no classes, or one that training lacks.
  """
  if not files:
    raise UserError(
      f'{str(folder)!r} holds no folders of classes: sort its images into them or, if they have no '
      'labels, rename it'
    )
  known = {composed(name): name for name in class_names}
  own: Files = {name: [] for name in class_names}
  for name, names in files.items():
    if composed(name) not in known:
      near = [other for other in class_names if other.casefold() == name.casefold()]
      near += difflib.get_close_matches(name, class_names, n=1)
      hint = f'; did you mean {near[0]!r}?' if near else ':'
      raise UserError(
        f'{str(folder)!r} has a class {name!r} that train lacks{hint} rename it, remove it, or add '
        'images of it to train'
      )
    own[known[composed(name)]] += names
  return {name: sorted(names) for name, names in own.items()}


def _hold_out(
  files: Files, train: str, held_out: Mapping[str, tuple[float, float]], seed: int
) -> dict[str, Files]:
  """Cuts splits off from the training files."""
  splits: dict[str, Files] = {split: {name: [] for name in files} for split in ('train', *held_out)}
  for class_name, names in files.items():
    for name in names:
      share = hash_share(name.removeprefix(f'{train}/'), seed)
      inside = (split for split, (start, stop) in held_out.items() if start <= share < stop)
      splits[next(inside, 'train')][class_name].append(name)
  return splits
