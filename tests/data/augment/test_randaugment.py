"""RandAugment: every operation against Pillow, the arguments by hand, and the draws."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from attn_flax.data.augment import distort, randaugment
from attn_flax.errors import UserError

STATIC = ('num_ops', 'magnitude', 'operations')
rand = jax.jit(randaugment.randaugment, static_argnames=STATIC)

# The arguments that each operation is tested with; 0 for those that have none.
ARGUMENTS = {
  'identity': [0.0],
  'auto_contrast': [0.0],
  'equalize': [0.0],
  'invert': [0.0],
  'rotate': [-71.3, -13.7, 8.2, 30.1],
  'posterize': [0.0, 1.0, 3.0, 8.0],
  'solarize': [0.0, 1.0, 100.0, 255.0, 256.0, 700.0],
  'solarize_add': [0.0, 33.0, 110.0, 330.0],
  'color': [0.0, 0.1, 0.73, 1.0, 1.9, 5.5],
  'contrast': [0.0, 0.1, 0.73, 1.0, 1.9, 5.5],
  'brightness': [0.0, 0.1, 0.73, 1.0, 1.9, 5.5],
  'sharpness': [0.0, 0.1, 0.73, 1.0, 1.9, 5.5],
  'shear_x': [-0.271, 0.113, 0.877],
  'shear_y': [-0.271, 0.113, 0.877],
  'translate_x': [-30.0, -3.3, 0.7, 9.1],
  'translate_y': [-30.0, -3.3, 0.7, 9.1],
  'cutout': [0.0, 1.0, 5.0, 40.0],
}
AFFINE = {
  'shear_x': lambda a: (1, a, 0, 0, 1, 0),
  'shear_y': lambda a: (1, 0, 0, a, 1, 0),
  'translate_x': lambda a: (1, 0, a, 0, 1, 0),
  'translate_y': lambda a: (1, 0, 0, 0, 1, a),
}


def _photos(height, width, channels=3):
  """Images of different kinds: noise, a ramp, a dark one, one of two colors and a plain one."""
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (height, width, channels))
  x, y = np.meshgrid(np.arange(width), np.arange(height))
  ramp = np.stack([x * 7 % 256, y * 5 % 256, (x + y) * 3 % 256], axis=-1)[..., :channels]
  two = np.where(noise > 90, 200, 31)
  plain = np.full_like(noise, 77)
  images = [noise, ramp + noise // 16, noise // 8 + 60, two, plain]
  return np.clip(images, 0, 255).astype(np.uint8)


def _pillow(name, pixels, argument, center):
  """One operation on one image [H, W, C] as Pillow does it, or a loop where it has none."""
  grey = pixels.shape[-1] == 1
  image = Image.fromarray(pixels[..., 0] if grey else pixels)
  fill = 128 if grey else (128, 128, 128)
  height, width = pixels.shape[:2]
  if name == 'identity':
    made = image
  elif name == 'auto_contrast':
    made = ImageOps.autocontrast(image)
  elif name == 'equalize':
    made = ImageOps.equalize(image)
  elif name == 'invert':
    made = ImageOps.invert(image)
  elif name == 'rotate':
    made = image.rotate(argument, Image.Resampling.NEAREST, fillcolor=fill)
  elif name == 'posterize' and argument:
    made = ImageOps.posterize(image, int(argument))
  elif name == 'posterize':
    made = np.zeros_like(pixels)
  elif name == 'solarize':
    made = ImageOps.solarize(image, argument)
  elif name == 'solarize_add':
    made = pixels.copy()
    for place in np.ndindex(pixels.shape):
      if pixels[place] < 128:
        made[place] = min(int(pixels[place]) + int(argument), 255)
  elif name in ('color', 'contrast', 'brightness', 'sharpness'):
    made = getattr(ImageEnhance, name.capitalize())(image).enhance(argument)
  elif name in AFFINE:
    matrix = AFFINE[name](argument)
    made = image.transform(
      image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill
    )
  else:
    made, half = pixels.copy(), int(argument)
    for y in range(max(center[0] - half, 0), min(center[0] + half, height)):
      for x in range(max(center[1] - half, 0), min(center[1] + half, width)):
        made[y, x] = 128
  return np.asarray(made).reshape(pixels.shape)


@pytest.mark.parametrize('form', ['_in_turn', '_at_once'])
@pytest.mark.parametrize('shape', [(23, 31, 3), (40, 18, 1)])
def test_every_operation_is_pillows(monkeypatch, shape, form):
  # Both forms work on every platform; each platform uses the faster one.
  monkeypatch.setattr(distort, '_in_turn', getattr(distort, form))
  height, width, channels = shape
  assert ARGUMENTS.keys() == distort.OPERATIONS.keys()
  names = list(distort.OPERATIONS)
  cases = [
    (photo, names.index(name), argument)
    for photo in _photos(*shape)
    for name in names
    for argument in ARGUMENTS[name]
  ]
  centers = np.random.default_rng(1).integers(0, (height, width), (len(cases), 2))
  pixels, codes, arguments = (np.array(column) for column in zip(*cases, strict=True))
  call = jax.jit(lambda *arrays: distort.distort(*arrays))  # A new function, to be traced again.
  made = np.asarray(call(pixels, codes, arguments.astype(np.float32), centers))
  assert made.shape == pixels.shape and made.dtype == np.uint8

  for i, (photo, code, argument) in enumerate(cases):
    expected = _pillow(names[code], photo, argument, centers[i])
    difference = np.abs(made[i].astype(int) - expected)
    where = f'{names[code]} {argument}, image {i}'
    if names[code] in ('color', 'contrast', 'brightness', 'sharpness'):
      # Pillow truncates, and so does the code; rounding may leave a value just below an integer.
      assert difference.max() <= 1 and (difference > 0).mean() < 0.01, where
    elif names[code] == 'auto_contrast':
      # The same, but many exact values are integers: compared with integer arithmetic, too.
      low, high = (ends(photo.astype(int), axis=(0, 1)) for ends in (np.min, np.max))
      exact = (photo - low) * 255 // np.maximum(high - low, 1)
      np.testing.assert_array_equal(made[i], np.where(high > low, exact, photo), where)
      assert difference.max() <= 1, where
    elif names[code] == 'rotate':
      # Pillow rounds its angles: a place next to the border of two pixels may fall on either side.
      assert (difference > 0).any(axis=-1).mean() < 0.005, where
    else:
      assert difference.max() == 0, where


def test_the_operations_left_out_do_not_change_the_others():
  pixels = _photos(12, 9)
  count = len(pixels)
  center = jnp.full((count, 2), 4)
  whole_of = jax.jit(distort.distort)
  for name in ('equalize', 'rotate', 'contrast', 'sharpness'):
    code = jnp.full(count, list(distort.OPERATIONS).index(name))
    argument = jnp.full(count, ARGUMENTS[name][-1])
    whole = whole_of(pixels, code, argument, center)
    alone = distort.distort(pixels, code, argument, center, (name,))
    np.testing.assert_array_equal(alone, whole, name)


def test_images_without_inner_pixels_are_not_sharpened():
  pixels = _photos(2, 9)
  code = jnp.full(len(pixels), list(distort.OPERATIONS).index('sharpness'))
  same = distort.distort(
    pixels, code, jnp.full(len(pixels), 5.0), jnp.zeros((len(pixels), 2), int), ('sharpness',)
  )
  np.testing.assert_array_equal(same, pixels)


def test_arguments_are_those_of_the_released_code():
  # At magnitude 9, with the code's constants 100 and 40 for images of 224.
  expected = {
    'rotate': (0, 27),
    'posterize': (3, 0),
    'solarize': (230, 0),
    'solarize_add': (99, 0),
    'color': (1.72, 0),
    'contrast': (1.72, 0),
    'brightness': (1.72, 0),
    'sharpness': (1.72, 0),
    'shear_x': (0, 0.27),
    'shear_y': (0, 0.27),
    'translate_x': (0, 90),
    'translate_y': (0, 90),
    'cutout': (36, 0),
  }
  middle, spread = randaugment.arguments(9, 224, 224)
  for name, pair in zip(distort.OPERATIONS, np.stack([middle, spread], axis=1), strict=True):
    np.testing.assert_allclose(pair, expected.get(name, (0, 0)), rtol=1e-6, err_msg=name)


def test_distances_grow_with_the_image():
  names = list(distort.OPERATIONS)
  middle, spread = randaugment.arguments(10, 112, 448)
  assert spread[names.index('translate_x')] == 200 and spread[names.index('translate_y')] == 50
  assert middle[names.index('cutout')] == 20


def test_arguments_at_the_ends_of_the_scale():
  names = list(distort.OPERATIONS)
  of = lambda magnitude, **kwargs: {  # noqa: E731
    name: (float(middle), float(spread))
    for name, middle, spread in zip(
      names, *randaugment.arguments(magnitude, 224, 224, **kwargs), strict=True
    )
  }
  assert of(0)['posterize'] == (0, 0) and of(30)['posterize'] == (8, 0)
  assert of(0)['solarize'] == (0, 0) and of(30)['solarize'] == (768, 0)
  assert of(30)['color'] == (pytest.approx(5.5), 0) and of(30)['rotate'] == (0, 90)
  rising = functools.partial(of, increasing=True)
  assert rising(0)['posterize'] == (8, 0) and rising(0)['solarize'] == (256, 0)
  assert rising(0)['color'] == (1, 0)
  for magnitude in (10, 30):
    assert rising(magnitude)['posterize'] == (4, 0) and rising(magnitude)['solarize'] == (0, 0)
    assert rising(magnitude)['color'] == (1, pytest.approx(0.9))
  assert rising(30)['rotate'] == (0, 90)


def _outcomes(photo, name, magnitude):
  """The results that an operation other than cutout can have on an image, at most two."""
  middle, spread = randaugment.arguments(magnitude, *photo.shape[:2])
  code = list(distort.OPERATIONS).index(name)
  return {
    sign: _pillow(name, photo, middle[code] + sign * spread[code], (0, 0))
    for sign in ((-1, 1) if spread[code] else (1,))
  }


def test_operations_signs_and_squares_are_drawn_evenly():
  count, magnitude = 3200, 8
  photo = _photos(16, 16)[1]
  photo[:, 8] = 128 - photo[:, 8] // 3  # So that equalizing and stretching change it.
  images = np.broadcast_to(photo, (count, *photo.shape))
  made = np.asarray(rand(jax.random.key(0), images, 1, magnitude))
  candidates = {
    (name, sign): outcome.astype(int)
    for name in randaugment.RELEASED
    if name != 'cutout'
    for sign, outcome in _outcomes(photo, name, magnitude).items()
  }
  found, corners = collections.Counter(), collections.Counter()
  for image in made.astype(int):
    # All candidates differ by much more than the rounding.
    (own,) = [key for key, other in candidates.items() if np.abs(image - other).max() <= 1] or [
      ('cutout', 1)
    ]
    found[own] += 1
    if own[0] == 'cutout':
      cut = (image != photo).any(axis=-1) | (photo == 128).all(axis=-1)
      rows, columns = np.flatnonzero(cut.any(axis=1)), np.flatnonzero(cut.any(axis=0))
      assert (image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 128).all()
      corners[rows[0] == 0, columns[0] == 0] += 1
  by_name = collections.Counter()
  for (name, _), number in found.items():
    by_name[name] += number
  assert set(by_name) == set(randaugment.RELEASED)
  # 200 are expected of each, with a standard deviation of 13.7; half of them of either sign.
  assert all(abs(number - 200) < 4 * 13.7 for number in by_name.values()), by_name
  for name in ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y'):
    assert abs(found[name, 1] - found[name, -1]) < 4 * np.sqrt(by_name[name]), name
  assert len(corners) == 4  # Cut off at the top, at the left, at both and at neither.


def test_the_papers_list_leaves_images_alone_in_one_case_of_fourteen():
  images = np.broadcast_to(_photos(16, 16)[0], (1400, 16, 16, 3))
  made = rand(jax.random.key(0), images, 1, 7, randaugment.PAPER)
  same = (np.asarray(made) == images).all(axis=(1, 2, 3)).sum()
  assert abs(same - 100) < 4 * 9.6  # A standard deviation of 9.6.
  assert len(randaugment.PAPER) == 14 and len(randaugment.RELEASED) == 16


def test_two_operations_are_one_after_the_other():
  images = np.broadcast_to(_photos(16, 16)[0], (400, 16, 16, 3))
  names = ('invert', 'solarize')
  made = rand(jax.random.key(0), images, 2, 5, names)
  invert = lambda pixels: 255 - pixels  # noqa: E731
  solarize = lambda pixels: np.where(pixels < 128, pixels, 255 - pixels)  # noqa: E731
  photo = images[0]
  candidates = {
    'invert, invert': photo,
    'invert, solarize': solarize(invert(photo)),
    'solarize, invert': invert(solarize(photo)),
    'solarize, solarize': solarize(solarize(photo)),
  }
  counts = collections.Counter()
  for image in np.asarray(made):
    counts.update(key for key, other in candidates.items() if np.array_equal(image, other))
  # Solarizing an image or its negative is the same: two of the four outcomes are one.
  for key in candidates:
    expected = 200 if key.endswith('solarize') else 100
    assert abs(counts[key] - expected) < 40, counts  # Four standard deviations of 10 at most.


@pytest.mark.parametrize('dtype', [np.float32, np.uint8])
def test_the_dtype_stays_and_floats_are_rounded(dtype):
  images = _photos(8, 10)
  shifted = (images + 0.3).astype(dtype) if dtype == np.float32 else images
  made = rand(jax.random.key(0), shifted, 2, 9)
  assert made.dtype == dtype and made.shape == images.shape
  np.testing.assert_array_equal(made, rand(jax.random.key(0), images, 2, 9))


def test_the_key_decides():
  images = _photos(8, 10)
  first, again, other = (rand(jax.random.key(seed), images, 2, 9) for seed in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    ({'operations': ('rotat',)}, "'rotat'; did you mean 'rotate'"),
    ({'operations': ()}, 'needs operations'),
    ({'magnitude': 31}, 'magnitude=31 .* 0 to 30'),
    ({'magnitude': -1}, 'magnitude=-1'),
  ],
)
def test_what_cannot_be_is_refused(fields, text):
  with pytest.raises(UserError, match=text):
    randaugment.randaugment(jax.random.key(0), _photos(8, 10), **fields)
