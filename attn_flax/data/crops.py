"""The boxes of crops: (left, top, right, bottom) in pixels of the upright image.

* Random resized crop: Szegedy et al., Going Deeper with Convolutions, CVPR 2015,
  https://arxiv.org/abs/1409.4842; the details are torchvision's.
"""

import math

import numpy as np

TRIES = 10  # Boxes that are drawn for a random crop.
SCALE = (0.08, 1.0)  # Smallest and largest share of the image's area that a box covers.
RATIO = (3 / 4, 4 / 3)  # Its smallest and largest width / height.

Box = tuple[float, float, float, float]


def crop_box(
  width: int,
  height: int,
  draws: np.ndarray,
  scale: tuple[float, float] = SCALE,
  ratio: tuple[float, float] = RATIO,
) -> Box:
  """The box of a random resized crop; its corners are integers.

  The first box drawn that fits into the image is used. Where none fits, it is the largest central
  box whose shape `ratio` allows.

  Args:
    width: of the image, in pixels.
    height: of the image, in pixels.
    draws: [TRIES, 4] uniform in 0..1: what decides the area, shape, top and left of each box.
    scale: smallest and largest share of the image's area; uniform between them.
    ratio: smallest and largest width / height; log-uniform between them.
  """
  low, high = math.log(ratio[0]), math.log(ratio[1])
  for share, shape, top, left in draws:
    area = width * height * (scale[0] + share * (scale[1] - scale[0]))
    aspect = math.exp(low + shape * (high - low))
    columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < columns <= width and 0 < rows <= height:
      x, y = int(left * (width - columns + 1)), int(top * (height - rows + 1))
      return x, y, x + columns, y + rows
  aspect = min(max(width / height, ratio[0]), ratio[1])
  columns, rows = min(width, round(height * aspect)), min(height, round(width / aspect))
  x, y = (width - columns) // 2, (height - rows) // 2
  return x, y, x + columns, y + rows


def central_box(width: int, height: int, size: int, resize: int | None = None) -> Box:
  """The box that a resize and a center crop would keep, in pixels before the resize.

  Args:
    width: of the image, in pixels.
    height: of the image, in pixels.
    size: height and width of the center crop.
    resize: length to which the shorter side would be resized; None: `size`.
  """
  resize = resize or size
  shorter = min(width, height)
  # Rounded as torchvision's Resize and CenterCrop do.
  new_width, new_height = (side * resize // shorter for side in (width, height))
  x, y = (round((side - size) / 2) for side in (new_width, new_height))
  across, down = width / new_width, height / new_height
  return x * across, y * down, (x + size) * across, (y + size) * down
