"""Windows and resized boxes against Pillow and loops, and the draws of boxes.

Crops that keep the size, and flips, are in `test_augmentation`.
"""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from attn_flax.data.augment import boxes, crop
from attn_flax.errors import UserError

random_resized_crop = jax.jit(crop.random_resized_crop, static_argnames=('size', 'scale', 'ratio'))


def _images(count, height=6, width=5, channels=3):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def _resized(image, box, size):
  """A box of an image [H, W, C], cut out and resized by Pillow, as [h, w, C] uint8."""
  top, left, height, width = box
  cut = Image.fromarray(image[top : top + height, left : left + width])
  return np.asarray(cut.resize(size[::-1], Image.Resampling.BILINEAR))


def _resized_loop(image, box, size):
  """The same in float64: a mean weighted by a triangle, first of rows, then of columns."""
  top, left, height, width = box
  cut = image[top : top + height, left : left + width].astype(np.float64)
  for _ in range(2):
    before, after = len(cut), size[0]
    scale = before / after
    rows = []
    for y in range(after):
      weights = [
        max(0, 1 - abs(place + 0.5 - (y + 0.5) * scale) / max(scale, 1)) for place in range(before)
      ]
      rows.append(sum(weight * row for weight, row in zip(weights, cut, strict=True)))
      rows[-1] = rows[-1] / sum(weights)
    cut, size = np.stack(rows).swapaxes(0, 1), size[::-1]
  return cut


BOXES = [(0, 0, 17, 12), (3, 2, 4, 9), (16, 11, 1, 1), (5, 0, 12, 3), (0, 7, 2, 5)]


@pytest.mark.parametrize('size', [(17, 12), (8, 31), (5, 3)])
def test_boxes_are_resized_as_in_a_loop_and_by_pillow(size):
  images = _images(len(BOXES), 17, 12)
  resize = jax.jit(lambda images: crop.resize_boxes(images, jnp.array(BOXES), size))
  rounded, exact = resize(images), resize(images.astype(np.float32))
  assert rounded.shape == (len(BOXES), *size, 3)
  assert rounded.dtype == np.uint8 and exact.dtype == np.float32
  for i, box in enumerate(BOXES):
    np.testing.assert_allclose(exact[i], _resized_loop(images[i], box, size), atol=1e-3)
    np.testing.assert_array_equal(rounded[i], np.round(exact[i]))
    # Pillow rounds between rows and columns, too.
    difference = np.abs(_resized(images[i], box, size).astype(int) - rounded[i])
    assert difference.max() <= 1


def _torchvision_boxes(count, height, width, area, ratio):
  """Boxes [N, 4] as torchvision draws them, by loops; (0, 0, 0, 0) where ten draws all fail."""
  rng = np.random.default_rng(5)
  drawn = np.zeros((count, 4), int)
  for i in range(count):
    for _ in range(10):
      pixels = height * width * rng.uniform(*area)
      aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
      w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
      if 0 < w <= width and 0 < h <= height:
        drawn[i] = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
        break
  return drawn


def test_boxes_are_distributed_as_torchvisions():
  count, height, width = 4000, 40, 30
  area, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
  draw = jax.jit(boxes.draw_boxes, static_argnums=(1, 2, 3, 4, 5))
  drawn, found = draw(jax.random.key(0), count, (height, width), (height, width), area, ratio)
  expected = _torchvision_boxes(count, height, width, area, ratio)
  is_void = expected[:, 2] == 0
  # As many images without a box as in torchvision, within five standard deviations.
  assert abs((~found).sum() - is_void.sum()) < 5 * np.sqrt(2 * is_void.sum() + 1)
  drawn, expected = np.asarray(drawn)[np.asarray(found)], expected[~is_void]
  assert (drawn >= 0).all()
  assert (drawn[:, 0] + drawn[:, 2] <= height).all() and (drawn[:, 1] + drawn[:, 3] <= width).all()
  for measure in (
    lambda box: box[:, 2] * box[:, 3],
    lambda box: np.log(box[:, 3] / box[:, 2]),
    lambda box: box[:, 0] + box[:, 2] / 2,
    lambda box: box[:, 1] + box[:, 3] / 2,
    lambda box: box[:, 0] / np.maximum(height - box[:, 2], 1),
    lambda box: box[:, 1] / np.maximum(width - box[:, 3], 1),
  ):
    assert stats.ks_2samp(measure(drawn), measure(expected)).pvalue > 1e-3


def test_inside_is_a_loop_over_pixels():
  cases = np.array([(0, 0, 7, 5), (2, 1, 3, 2), (-2, 3, 4, 9), (1, 1, 0, 3), (6, 4, 1, 1)])
  made = np.asarray(boxes.inside(jnp.array(cases), 7, 5))
  assert made.shape == (5, 7, 5, 1)
  for i, (top, left, height, width) in enumerate(cases):
    for y, x in np.ndindex(7, 5):
      assert made[i, y, x, 0] == (top <= y < top + height and left <= x < left + width)


def test_a_resized_crop_is_a_box_of_its_own_image():
  images, size, scale, ratio = _images(150, 5, 6), (4, 3), (0.3, 0.8), (0.5, 2.0)
  made = random_resized_crop(jax.random.key(0), images.astype(np.float32), size, scale, ratio)
  made = np.asarray(made)
  assert made.shape == (150, 4, 3, 3)
  # Rounding makes sides up to half a pixel longer or shorter.
  possible = [
    (y, x, h, w)
    for h in range(1, 6)
    for w in range(1, 7)
    if (h - 0.5) * (w - 0.5) <= 30 * scale[1] and (h + 0.5) * (w + 0.5) >= 30 * scale[0]
    if (w - 0.5) / (h + 0.5) <= ratio[1] and (w + 0.5) / (h - 0.5) >= ratio[0]
    for y in range(6 - h)
    for x in range(7 - w)
  ]
  found = collections.Counter()
  for image, cut in zip(images, made, strict=True):
    own = [
      box for box in possible if np.abs(_resized(image, box, size).astype(int) - cut).max() < 1.5
    ]
    assert len(own) == 1
    found.update(own)
  assert len(found) > 40


@pytest.mark.parametrize(
  ('ratio', 'box'),
  # 5 rows and 6 columns: the largest shapes of width / height 3 and 1/3 are 2 x 6 and 5 x 2.
  [((3.0, 4.0), (1, 0, 2, 6)), ((0.2, 1 / 3), (0, 2, 5, 2)), ((0.2, 4.0), (0, 0, 5, 6))],
)
def test_what_never_fits_is_cropped_centrally(ratio, box):
  images = _images(3, 5, 6)
  # No box is larger than the image.
  cropped = random_resized_crop(jax.random.key(0), images, None, (1.5, 2.0), ratio)
  for image, made in zip(images, np.asarray(cropped), strict=True):
    assert np.abs(_resized(image, box, (5, 6)).astype(int) - made).max() <= 1


def test_the_whole_image_at_its_own_size_is_left_alone():
  images = _images(4, 7, 7)
  whole = random_resized_crop(jax.random.key(0), images, None, (1.0, 1.0), (1.0, 1.0))
  np.testing.assert_array_equal(whole, images)


@pytest.mark.parametrize(('padding', 'size'), [(0, (4, 3)), (1, (7, 5)), (2, (1, 9))])
def test_windows_of_another_size_are_cut_from_everywhere(padding, size):
  images = _images(600)
  cropped = np.asarray(
    jax.jit(lambda key: crop.random_crop(key, images, padding, 'constant', size))(jax.random.key(0))
  )
  assert cropped.shape == (600, *size, 3)
  places = (6 + 2 * padding - size[0] + 1, 5 + 2 * padding - size[1] + 1)
  corners = collections.Counter()
  for before, after in zip(images, cropped, strict=True):
    padded = np.pad(before, ((padding, padding), (padding, padding), (0, 0)))
    own = [
      (y, x)
      for y, x in np.ndindex(*places)
      if np.array_equal(padded[y : y + size[0], x : x + size[1]], after)
    ]
    corners.update(own[:1])  # Windows that hold only padding may look alike.
    assert own
  expected = 600 / math.prod(places)
  if padding < 2:
    assert len(corners) == math.prod(places)
    assert all(abs(number - expected) < 5 * np.sqrt(expected) for number in corners.values())


def test_the_center_is_in_the_center():
  images = _images(2, 7, 6)
  np.testing.assert_array_equal(crop.center_crop(images, (3, 4)), images[:, 2:5, 1:5])
  np.testing.assert_array_equal(crop.center_crop(images, (7, 6)), images)


@pytest.mark.parametrize('size', [(7, 5), (6, 6)])
def test_a_window_larger_than_the_image_is_refused(size):
  with pytest.raises(UserError, match=f'{size[0]} x {size[1]} pixels.*6 x 5'):
    crop.center_crop(_images(1), size)
  with pytest.raises(UserError, match=f'{size[0]} x {size[1]} pixels.*6 x 5'):
    crop.random_crop(jax.random.key(0), _images(1), 0, 'constant', size)


@pytest.mark.parametrize('size', [(0, 3), (3,), (2.5, 3), 'ab', None])
def test_a_window_that_is_none_is_refused(size):
  with pytest.raises(UserError, match='size'):
    crop.center_crop(_images(1), size)
