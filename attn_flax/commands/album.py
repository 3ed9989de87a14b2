"""The pictures of `--mode=explain`: one file for each photograph, and one page with all of them."""

import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from attn_flax.commands.images import class_folder
from attn_flax.commands.predict import Answer
from attn_flax.files import composed
from attn_flax.report.figures.contact_sheet import MOST_IMAGES, ContactSheet
from attn_flax.report.figures.fonts import lettering
from attn_flax.report.figures.photographs import MOST_PIXELS, Caption, Photograph, overlays
from attn_flax.training.artifacts import Json, replacing
from attn_flax.training.trained_run import TrainedRun

_USUAL_LIMIT = 255  # Bytes of a file's name, where the file system does not say.


class Album:
  """Draws explained photographs into a folder, one after the other."""

  def __init__(
    self,
    run: TrainedRun,
    folder: pathlib.Path,
    paths: Sequence[pathlib.Path],
    named: Sequence[str] = (),
  ):
    """Warns on stderr if no installed font has the letters of some names of classes or files.

    Args:
      run: the run whose network explains the photographs.
      folder: folder of the pictures; it is made with the first one.
      paths: the files of all photographs.
      named: the files and folders by which the user named them.
    """
    self._named = named
    self._run = run
    self._folder = folder
    self._lettering = lettering([*run.class_names, *(path.name for path in paths)])
    self._numbers = {name: i for i, name in enumerate(map(composed, run.class_names))}
    self._names = self._lettering.named(run.class_names)
    self._sheet = ContactSheet()
    self._count = self._smaller = 0
    self._warn('class names', run.class_names, 'pictures show their numbers')
    if len(paths) > 1:
      names = [path.name for path in paths]
      self._warn('file names', names, 'the page of all images shows their numbers')

  def _warn(self, what: str, names: Sequence[str], instead: str) -> None:
    """Names on stderr what is shown in place of names whose letters no font has, if there are."""
    unnamed = [name for name in names if not self._lettering.has(name)]
    if unnamed:
      print(
        f'no installed font has the letters of some {what} ({len(unnamed)} of {len(names)}, such '
        f'as {unnamed[0]}): {instead}; install a font that has, such as Noto Sans CJK for Chinese, '
        'Japanese and Korean',
        file=sys.stderr,
      )

  def draw(self, path: pathlib.Path, maps: Mapping[str, np.ndarray], answer: Answer) -> Json:
    """Draws a photograph with maps over the part of it that the network saw.

    Args:
      path: the file; its true class is that of `images.class_folder`.
      maps: [h, w] each, by the name of its method.
      answer: the class that is explained.

    Returns:
      `picture`, the file that was written; `true_label`, None if it is unknown; `size`, the
      photograph's (height, width); `crop`, the part that the network saw, as (top, left, bottom,
      right) in pixels of the photograph; `drawn`, the (height, width) at which it is drawn.

    Raises:
      UserError: the photograph can no longer be read, or the picture cannot be written.
    """
    self._count += 1
    pixels, size, crop = self._run.read_whole(path, MOST_PIXELS)
    share = pixels.shape[0] / size[0]
    self._smaller += pixels.shape[:2] != size
    left, top, right, bottom = (side * share for side in crop)
    photo = Photograph(pixels, (left, top, right, bottom))
    own = class_folder(path, self._named, self._numbers)
    label = None if own is None else self._numbers[own]
    caption = Caption(
      self._names[answer.label], answer.probability, None if label is None else self._names[label]
    )
    title = path.name if self._lettering.has(path.name) else ''
    self._sheet.add(f'{self._count:04} {title}', photo, maps, caption)
    picture = self._folder / self._file_name(path)
    self._write(picture, overlays(photo, maps, caption, self._lettering))
    return {
      'picture': str(picture),
      'true_label': label,
      'size': list(size),
      'crop': [round(crop[side], 2) for side in (1, 0, 3, 2)],
      'drawn': list(pixels.shape[:2]),
    }

  def finish(self, sheet: pathlib.Path) -> list[str]:
    """Writes the page of all photographs if there are several; returns notes for the user."""
    said = []
    if self._smaller:
      said.append(
        f'photographs drawn at reduced size, with {MOST_PIXELS} pixels on the longer side: '
        f'{self._smaller}'
      )
    if self._count > 1:
      self._write(sheet, self._sheet.png(self._lettering))
      which = f'the first {MOST_IMAGES} images' if self._count > MOST_IMAGES else 'all images'
      said.append(f'{which} on one page: {sheet}')
    return said

  def _file_name(self, path: pathlib.Path) -> str:
    """A number, as files in different folders may share a name, and as much of the name as fits."""
    before, after = f'{self._count:04}_', '.png'
    stem = path.stem
    while len(os.fsencode(before + stem + after)) > self._limit():
      stem = stem[:-1]
    return before + stem + after

  def _limit(self) -> int:
    """The most bytes that a file name in the folder may have."""
    self._folder.mkdir(parents=True, exist_ok=True)
    try:
      return os.pathconf(self._folder, 'PC_NAME_MAX')
    except (AttributeError, OSError, ValueError):
      return _USUAL_LIMIT

  def _write(self, path: pathlib.Path, content: bytes) -> None:
    with replacing(path, 'name another folder with --output') as partial:
      partial.write_bytes(content)
