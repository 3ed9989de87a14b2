"""Random erasing and cutout: what is erased, how much of it, and how often."""

import collections

import jax
import numpy as np
import pytest
from scipy import stats

from attn_flax.data.augment import erase
from attn_flax.errors import UserError

STATIC = ('probability', 'area', 'ratio', 'fill')
random_erasing = jax.jit(erase.random_erasing, static_argnames=STATIC)
cutout = jax.jit(erase.cutout, static_argnames='side')


def _images(count, height=9, width=7):
  """Images without a 0, so that erased pixels can be told."""
  rng = np.random.default_rng(0)
  return rng.uniform(0.5, 1.5, (count, height, width, 3)).astype(np.float32)


def _erased(before, after):
  """The box (top, left, height, width) in which two images differ; None where they are equal."""
  differs = (before != after).any(axis=-1)
  if not differs.any():
    return None
  rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
  box = rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
  assert differs[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
  assert differs.sum() == box[2] * box[3]
  return box


@pytest.mark.parametrize('fill', ['zeros', 'noise'])
def test_erasing_fills_boxes_of_some_images(fill):
  images, area, ratio = _images(1000), (0.1, 0.4), (0.4, 2.5)
  made = np.asarray(random_erasing(jax.random.key(0), images, 0.3, area, ratio, fill))
  assert made.dtype == np.float32
  boxes, filled = [], []
  for before, after in zip(images, made, strict=True):
    box = _erased(before, after)
    if box is None:
      continue
    top, left, height, width = box
    assert height < 9 and width < 7
    assert (height - 0.5) * (width - 0.5) <= 63 * area[1]
    assert (height + 0.5) * (width + 0.5) >= 63 * area[0]
    assert ratio[0] <= (width + 0.5) / (height - 0.5) and (width - 0.5) / (height + 0.5) <= ratio[1]
    boxes.append(box)
    filled.append(after[top : top + height, left : left + width].ravel())
  # 300 are expected, with a standard deviation of 14.5; ten draws of a box hardly ever all fail.
  assert abs(len(boxes) - 300) < 4 * 14.5
  values = np.concatenate(filled)
  if fill == 'zeros':
    assert (values == 0).all()
  else:
    assert stats.kstest(values, 'norm').pvalue > 1e-3
  tops, lefts, heights, widths = np.array(boxes).T
  for place, room in ((tops, 9 - heights), (lefts, 7 - widths)):
    # Uniform among room + 1 places: the mean share of the room is a half.
    share = place[room > 0] / room[room > 0]
    assert abs(share.mean() - 0.5) < 4 * share.std() / np.sqrt(len(share))


def test_erasing_nothing_and_everything():
  images = _images(40)
  key = jax.random.key(0)
  np.testing.assert_array_equal(random_erasing(key, images, 0), images)
  all_erased = np.asarray(random_erasing(key, images, 1, (0.2, 0.3), (1, 1)))
  assert all(_erased(*pair) for pair in zip(images, all_erased, strict=True))
  # A box of the whole area would not be smaller than the image: nothing is erased.
  np.testing.assert_array_equal(random_erasing(key, images, 1, (1, 1), (0.7, 0.8)), images)


@pytest.mark.parametrize('side', [1, 4, 5])
def test_cutout_erases_one_square_around_every_pixel_equally_often(side):
  height, width = 6, 5
  images = _images(1500, height, width)
  made = np.asarray(cutout(jax.random.key(0), images, side))
  squares = {}
  for y, x in np.ndindex(height, width):
    kept = np.ones((height, width), bool)
    for row in range(y - side // 2, y - side // 2 + side):
      for column in range(x - side // 2, x - side // 2 + side):
        if 0 <= row < height and 0 <= column < width:
          kept[row, column] = False
    squares[y, x] = kept
  expected, found = collections.Counter(), collections.Counter()
  for kept in squares.values():
    expected[kept.tobytes()] += 1500 / (height * width)
  for before, after in zip(images, made, strict=True):
    kept = (after != 0).all(axis=-1)
    np.testing.assert_array_equal(after, before * kept[..., None])
    found[kept.tobytes()] += 1
  assert found.keys() == expected.keys()
  for square, number in found.items():
    assert abs(number - expected[square]) < 5 * np.sqrt(expected[square])


def test_cutout_of_no_side_erases_nothing():
  images = _images(5)
  np.testing.assert_array_equal(cutout(jax.random.key(0), images, 0), images)


def test_the_key_decides():
  images = _images(20)
  for function in (
    lambda key: random_erasing(key, images, 0.5, fill='noise'),
    lambda key: cutout(key, images, 4),
  ):
    first, again, other = (function(jax.random.key(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_cannot_be_is_refused():
  with pytest.raises(UserError, match="'zero'; did you mean 'zeros'"):
    erase.random_erasing(jax.random.key(0), _images(1), 0.5, fill='zero')
  with pytest.raises(UserError, match='uint8: normalize'):
    pixels = _images(1).astype(np.uint8)
    erase.random_erasing(jax.random.key(0), pixels, 0.5, fill='noise')
