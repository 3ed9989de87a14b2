"""The files below a folder, by one rule for training, predictions and explanations."""

import collections
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from attn_flax.errors import UserError

# Files and folders that operating systems and file managers create, apart from hidden ones.
_SYSTEM = (
  *('thumbs.db', 'ehthumbs.db', 'desktop.ini', 'icon\r', '__macosx', '@eadir', '#recycle'),
  *('$recycle.bin', 'system volume information', 'lost+found', '__pycache__'),
)

SYSTEM, AGAIN = 'hidden or system', 'linked but already listed'
_NAMED = 3  # Paths that are named.

PassedOver = dict[str, list[str]]  # Paths below a folder that are skipped, by the reason in words.


class Listing(NamedTuple):
  """What lies below a folder.

  Attributes:
    files: paths of the files below the folder, in no order, including broken links.
    passed_over: paths that are skipped, by reason.
  """

  files: list[str]
  passed_over: PassedOver


def list_files(folder: pathlib.Path, advance: Callable[[int], object] = lambda _: None) -> Listing:
  """Lists all files below a folder, also through links to folders.

  Each folder is read once: a link to a folder that was already listed, such as one that holds the
  link, is skipped. Links are followed last, so that files get a path without a link if they have
  one.

  Args:
    folder: the folder, which may itself be hidden.
    advance: called with the number of entries of each folder that was read.

  Raises:
    UserError: a folder cannot be read.
  """
  files: list[str] = []
  passed_over: PassedOver = {SYSTEM: [], AGAIN: []}
  seen: set[tuple[int, int]] = set()
  waiting, links = collections.deque(['']), collections.deque[str]()
  while waiting or links:
    below = waiting.popleft() if waiting else links.popleft()
    place = folder / below
    status = os.stat(place)
    if (status.st_dev, status.st_ino) in seen:
      passed_over[AGAIN].append(below)
      continue
    seen.add((status.st_dev, status.st_ino))
    entries = scan(place)
    advance(len(entries))
    for entry in entries:
      path = f'{below}/{entry.name}'.lstrip('/')
      if is_system(entry.name):
        passed_over[SYSTEM].append(path)
      elif not is_folder(entry):
        files.append(path)
      else:
        (links if entry.is_symlink() else waiting).append(path)
  return Listing(files, passed_over)


def check_links(root: pathlib.Path, names: Iterable[str]) -> list[str]:
  """A warning if links lead from some folders to others; [] if not.

  Args:
    root: the folder of the images.
    names: folders below it, each after the one that holds it. Those inside a link that was named
      already are not named again.
  """
  alike: dict[tuple[int, int], list[str]] = collections.defaultdict(list)
  for name in names:
    status = os.stat(root / name)
    alike[status.st_dev, status.st_ino].append(name)
  again = {name for group in alike.values() for name in group[1:]}
  own = [[n for n in group if os.path.dirname(n) not in again] for group in alike.values()]
  shared = [' = '.join(group) for group in own if len(group) > 1]
  if not shared:
    return []
  named = ', '.join(shared[:_NAMED]) + (', ...' if len(shared) > _NAMED else '')
  return [f'links in {root} lead to the same folder ({named}), whose images count several times']


def in_words(passed_over: PassedOver) -> str:
  """What was skipped: for each reason the number of paths and the first of them; '' for nothing."""
  return ', '.join(
    f'{len(paths):,} {what} ({", ".join(paths[:_NAMED])}{", ..." if len(paths) > _NAMED else ""})'
    for what, paths in passed_over.items()
    if paths
  )


def scan(folder: pathlib.Path) -> list[os.DirEntry[str]]:
  """The entries of a folder, sorted by name.

  Raises:
    UserError: the folder cannot be read.
  """
  try:
    with os.scandir(folder) as entries:
      return sorted(entries, key=lambda entry: entry.name)
  except OSError as error:
    raise UserError(
      f'the folder {str(folder)!r} cannot be read ({error.strerror}); make it readable, or move it '
      'elsewhere'
    ) from None


def is_folder(entry: os.DirEntry[str]) -> bool:
  """Whether an entry is a folder or a link to one; a broken link is not."""
  try:
    return entry.is_dir()
  except OSError:  # A link to itself.
    return False


def is_system(name: str) -> bool:
  """Whether a file or folder of this name is hidden, or belongs to an operating system."""
  return name.startswith('.') or name.lower() in _SYSTEM


def natural_key(name: str) -> tuple:
  """A key that sorts 'class10' after 'class9', and by case only where nothing else differs."""
  parts = re.split(r'([0-9]+)', name)
  return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name
