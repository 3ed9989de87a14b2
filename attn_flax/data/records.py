"""Splits whose images stay encoded until they are needed, for datasets too large for memory."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from attn_flax.data import decode
from attn_flax.data.crops import RATIO, SCALE
from attn_flax.data.examples import Split
from attn_flax.data.image_file import MAX_PIXELS, BadImage
from attn_flax.data.threads import default_threads, in_threads
from attn_flax.errors import UserError

_CHUNK = 32  # Examples that a thread reads and decodes at a time.

Row = dict[str, Any]


class Source(Protocol):
  """Stored examples, with random access; can be pickled.

  Attributes:
    keys: the keys of each row: 'image', 'label' and, where they exist, 'mask' and 'bbox'.
  """

  keys: frozenset[str]

  def __len__(self) -> int:
    """Number of examples."""

  def rows(self, indices: Sequence[int]) -> list[Row]:
    """Reads examples.

    Returns:
      One row for each index, with the keys of `keys`: 'image', the content of an image file;
      'label', in 0..num_classes - 1; 'mask', the content of an image file; and 'bbox' [4],
      (ymin, xmin, ymax, xmax) in 0..1.

    Raises:
      UserError: an example cannot be read, or its label is out of range.
    """

  def labels(self) -> np.ndarray:
    """All labels, [N] int32."""

  def name(self, index: int) -> str:
    """What an error message calls an example."""

  def files(self) -> Sequence[str]:
    """The path of each example below the dataset's folder; () where examples are not files."""
    return ()

  def foreground(self, mask: np.ndarray) -> np.ndarray:
    """Which pixels of a uint8 mask belong to the labeled object: bool, same shape."""
    return mask > 0


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
  """One split of a dataset, encoded.

  Attributes:
    source: the examples.
    image_size: height and width of the decoded images in pixels.
    resize: length in pixels to which evaluation resizes the shorter side before the center crop.
    one_size: whether all images are stored at `image_size`: training then takes them whole instead
      of random crops.
    upright: whether to follow EXIF orientations.
    annotated: whether `take` reads masks and boxes, too.
    max_pixels: the most pixels that an encoded image may have.
  """

  source: Source
  image_size: int
  resize: int
  one_size: bool = False
  upright: bool = False
  annotated: bool = False
  max_pixels: int = MAX_PIXELS

  def __len__(self) -> int:
    return len(self.source)

  @functools.cached_property
  def label(self) -> np.ndarray:
    """All labels, [N] int32; reads the whole split if labels are stored along with the images."""
    return self.source.labels()

  def take(self, indices: Sequence[int] | np.ndarray) -> Split:
    """The examples at the given indices, decoded as for evaluation.

    Raises:
      UserError: an example cannot be read or decoded.
    """
    size, resize = self.image_size, self.resize
    out = self._empty(len(indices))
    has_mask = self.annotated and 'mask' in self.source.keys
    has_box = self.annotated and bool({'mask', 'bbox'} & self.source.keys)
    masks = np.zeros((*out.image.shape[:3], 1), bool) if has_mask else None
    boxes = np.zeros((len(indices), 4), np.float32) if has_box else None

    def fill(i: int, row: Row) -> None:
      out.image[i] = self._central_crop(row)
      if masks is not None:
        mask = decode.central_mask(row['mask'], size, resize=resize)
        masks[i, ..., 0] = self.source.foreground(mask)
      if boxes is not None and 'bbox' in row:
        boxes[i] = decode.central_bbox(row['bbox'], row['image'], size, resize=resize)
      elif boxes is not None and masks is not None:
        boxes[i] = tight_box(masks[i, ..., 0])

    self._read(indices, out.label, fill, default_threads())
    return dataclasses.replace(out, mask=masks, bbox=boxes)

  def eval_batch(self, indices: Sequence[int] | np.ndarray, *, threads: int = 1) -> Split:
    """Like `take`, but never with masks and boxes.

    Args:
      indices: which examples.
      threads: number of threads that read and decode.

    Raises:
      UserError: an example cannot be read or decoded.
    """
    out = self._empty(len(indices))

    def fill(i: int, row: Row) -> None:
      out.image[i] = self._central_crop(row)

    self._read(indices, out.label, fill, threads)
    return out

  def train_batch(
    self,
    indices: Sequence[int] | np.ndarray,
    draws: np.ndarray,
    *,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
    threads: int = 1,
  ) -> Split:
    """Random crops of the examples at the given indices, or the whole images where `one_size`.

    Args:
      indices: [N], which examples.
      draws: [N, crops.TRIES, 4] uniform random numbers in 0..1, see `crops.crop_box`.
      scale: smallest and largest share of an image's area that a crop covers.
      ratio: smallest and largest width / height of a crop.
      threads: number of threads that read and decode.

    Raises:
      UserError: an example cannot be read or decoded.
    """
    if self.one_size:
      return self.eval_batch(indices, threads=threads)
    out = self._empty(len(indices))

    def fill(i: int, row: Row) -> None:
      out.image[i] = decode.random_crop(
        row['image'],
        self.image_size,
        draws[i],
        upright=self.upright,
        scale=scale,
        ratio=ratio,
        max_pixels=self.max_pixels,
      )

    self._read(indices, out.label, fill, threads)
    return out

  def _central_crop(self, row: Row) -> np.ndarray:
    return decode.central_crop(
      row['image'],
      self.image_size,
      resize=self.resize,
      upright=self.upright,
      max_pixels=self.max_pixels,
    )

  def _empty(self, count: int) -> Split:
    shape = (count, self.image_size, self.image_size, 3)
    return Split(np.empty(shape, np.uint8), np.empty(count, np.int32))

  def _read(
    self,
    indices: Sequence[int] | np.ndarray,
    label: np.ndarray,
    fill: Callable[[int, Row], None],
    threads: int,
  ) -> None:
    """Reads examples and calls `fill(i, row)` for the i-th of them."""
    wanted = [int(index) for index in indices]

    def read(chunk: range) -> None:
      for i, row in zip(chunk, self.source.rows(wanted[chunk.start : chunk.stop]), strict=True):
        label[i] = row['label']
        try:
          fill(i, row)
        except BadImage as error:
          raise UserError(
            f'{self.source.name(wanted[i])} cannot be used: {error}; fix it or leave it out'
          ) from error

    starts = range(0, len(wanted), _CHUNK)
    chunks = [range(start, min(start + _CHUNK, len(wanted))) for start in starts]
    in_threads(read, chunks, threads)


def tight_box(mask: np.ndarray) -> np.ndarray:
  """The tight box [4] of a mask [H, W] bool: (ymin, xmin, ymax, xmax) in 0..1; 0 if it is empty."""
  if not mask.any():
    return np.zeros(4, np.float32)
  rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
  height, width = mask.shape
  corners = [rows[0] / height, columns[0] / width, (rows[-1] + 1) / height]
  return np.array([*corners, (columns[-1] + 1) / width], np.float32)
