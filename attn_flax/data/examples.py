"""Examples in memory."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """One split of a dataset, in memory.

  Attributes:
    image: [N, H, W, C] uint8.
    label: [N] int32.
    mask: [N, H, W, 1] bool, the pixels of the labeled object; None where it was not read.
    bbox: [N, 4] float32, the object's tight box as (ymin, xmin, ymax, xmax) in 0..1; None likewise.
  """

  image: np.ndarray
  label: np.ndarray
  mask: np.ndarray | None = None
  bbox: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.label)

  def take(self, indices: Sequence[int] | np.ndarray) -> 'Split':
    """The examples at the given indices."""
    index = np.asarray(indices)
    mask, bbox = (None if part is None else part[index] for part in (self.mask, self.bbox))
    return Split(self.image[index], self.label[index], mask, bbox)
