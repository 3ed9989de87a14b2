"""Checks which files of a folder are images that can be decoded, and stores the results."""

import hashlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from attn_flax.data import decode
from attn_flax.data.image_file import BadImage, TooLarge
from attn_flax.data.progress import progress
from attn_flax.data.threads import default_threads, in_threads
from attn_flax.files import read_file, user_cache

_CHUNK = 256
_WORTH_KEEPING_S = 3.0  # A check that took longer than this is stored.


class Checked(NamedTuple):
  """The result of checking a file.

  Attributes:
    height: height of the upright image in pixels; 0 for a broken file, unless it is too large.
    width: its width, likewise.
    reason: what is wrong with the file; empty: nothing.
    digest: SHA-256 of the file's content; empty for a broken file, and for one that was not
      decoded because it has too many pixels.
  """

  height: int
  width: int
  reason: str
  digest: str = ''


def check(root: pathlib.Path, names: Sequence[str], max_pixels: int) -> dict[str, Checked]:
  """Decodes every file, at a reduced size where the format allows that, and computes its digest.

  Results of a check that took long are kept in $XDG_CACHE_HOME/attn_flax (else ~/.cache/attn_flax),
  by path, size and time of change, so that a file is decoded again only if it has changed.

  Args:
    root: folder of the files.
    names: their paths below it.
    max_pixels: the most pixels that an image may have; larger images count as broken.

  Returns:
    The result for each of `names`.
  """
  began = time.monotonic()
  store = _store(root)
  known = _read(store)
  found: dict[str, Checked] = {}
  states = {name: _state(root / name) for name in names}
  for name, state in states.items():
    entry = known.get(name)
    if entry is not None and entry[:2] == state and len(entry) == 2 + len(Checked._fields):
      stored = Checked(*entry[2:])
      if stored.reason or stored.digest or stored.height * stored.width > max_pixels:
        found[name] = stored
  missing = [name for name in names if name not in found]
  with progress(f'checking {root}', len(missing)) as advance:
    for start in range(0, len(missing), _CHUNK):
      chunk = missing[start : start + _CHUNK]
      found.update(zip(chunk, _check_files(root, chunk, max_pixels), strict=True))
      advance(len(chunk))
  if store and missing and time.monotonic() - began > _WORTH_KEEPING_S:
    _write(store, {**known, **{name: [*states[name], *found[name]] for name in missing}})
  return {name: _limited(found[name], max_pixels) for name in names}


def _limited(checked: Checked, max_pixels: int) -> Checked:
  """Counts an image with too many pixels as broken; what is stored does not depend on the limit."""
  if checked.height * checked.width <= max_pixels:
    return checked
  too_large = TooLarge(checked.height, checked.width, max_pixels)
  return checked._replace(reason=str(too_large), digest='')


def _check_files(root: pathlib.Path, names: Sequence[str], max_pixels: int) -> list[Checked]:
  def check_file(name: str) -> Checked:
    try:
      content = read_file(root / name)
      shape = decode.probe(content, upright=True, max_pixels=max_pixels)
      return Checked(*shape, '', hashlib.sha256(content).hexdigest())
    except TooLarge as error:
      return Checked(*error.size, '')
    except BadImage as error:
      return Checked(0, 0, str(error))
    except OSError as error:
      return Checked(0, 0, f'it cannot be read ({error.strerror})')

  return in_threads(check_file, names, default_threads())


def _state(path: pathlib.Path) -> list[int]:
  """Size and time of change of a file; [] for a file that does not exist."""
  try:
    found = path.stat()
  except OSError:
    return []
  return [found.st_size, found.st_mtime_ns]


def _store(root: pathlib.Path) -> pathlib.Path | None:
  """The file that stores the results for a folder; None for a user without a home folder."""
  base = user_cache()
  if base is None:
    return None
  digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
  return base / f'images-{digest}.json'


def _read(store: pathlib.Path | None) -> dict[str, list]:
  try:
    entries = json.loads(store.read_text()) if store else {}
  except (OSError, ValueError):  # Missing or cut short: then every file is checked again.
    return {}
  return entries if isinstance(entries, dict) else {}


def _write(store: pathlib.Path | None, entries: Mapping[str, list]) -> None:
  """Replaces the file in one step; if it cannot be written, nothing is stored."""
  if store is None:
    return
  try:
    store.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile('w', dir=store.parent, delete=False) as file:
      json.dump(entries, file)
    os.replace(file.name, store)
  except OSError:
    pass
