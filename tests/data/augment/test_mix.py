"""Mixup and CutMix against NumPy: pixels, labels, and the draws of both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from attn_flax.data.augment import mix
from attn_flax.errors import UserError

CLASSES = 400
STATIC = ('alpha', 'num_classes', 'per_image')


@functools.partial(jax.jit, static_argnames=STATIC)
def mixup(key, images, labels, alpha, num_classes=None, per_image=False):
  return mix.mix(key, images, labels, num_classes, mixup_alpha=alpha, per_image=per_image)


@functools.partial(jax.jit, static_argnames=STATIC)
def cutmix(key, images, labels, alpha, num_classes=None, per_image=False):
  return mix.mix(key, images, labels, num_classes, cutmix_alpha=alpha, per_image=per_image)


def _batch(count, height=6, width=5):
  """Images that differ in every pixel, and labels that number them."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(count, height, width, 2)).astype(np.float32)
  return images, np.arange(count, dtype=np.int32)


def _shares(labels):
  """The weight of each image's own label, [N]; checks that the rest is its partner's label."""
  labels = np.asarray(labels, float)
  count = len(labels)
  own = labels[np.arange(count), np.arange(count)]
  partner = labels[np.arange(count), (np.arange(count) - 1) % count]
  np.testing.assert_allclose(own + partner, 1, atol=1e-6)
  assert (np.sort(labels, axis=1)[:, :-2] == 0).all() and (labels >= 0).all()
  return own


def _check_mixup(images, made, shares):
  for i in range(len(images)):
    expected = shares[i] * images[i] + (1 - shares[i]) * images[i - 1]
    np.testing.assert_allclose(made[i], expected, atol=1e-5)


def _check_cutmix(images, made, shares):
  """Checks pixels and shares; returns the boxes, None where nothing is cut."""
  boxes = []
  for i in range(len(images)):
    is_own, is_partner = ((made[i] == images[j]).all(axis=-1) for j in (i, i - 1))
    assert (is_own ^ is_partner).all()
    np.testing.assert_allclose(shares[i], is_own.mean(), atol=1e-6)
    rows, columns = (np.flatnonzero(is_partner.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
      boxes.append(None)
      continue
    assert is_partner[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert is_partner.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    boxes.append((rows[0], rows[-1], columns[0], columns[-1]))
  return boxes


@pytest.mark.parametrize('per_image', [False, True])
@pytest.mark.parametrize('function', [mixup, cutmix])
def test_images_and_labels_are_mixed_alike(function, per_image):
  images, labels = _batch(40)
  different = set()
  for seed in range(3):
    mixed = function(jax.random.key(seed), images, labels, 1.0, CLASSES, per_image=per_image)
    made, made_labels = map(np.asarray, mixed)
    assert made.shape == images.shape and made.dtype == np.float32
    assert made_labels.shape == (40, CLASSES) and made_labels.dtype == np.float32
    shares = _shares(made_labels)
    check = _check_mixup if function is mixup else _check_cutmix
    check(images, made, shares)
    assert (len(np.unique(np.round(shares, 6))) > 5) == per_image
    different.add(tuple(shares))
  assert len(different) == 3


@pytest.mark.parametrize('alpha', [0.2, 1.0, 3.0])
def test_the_weights_of_mixup_have_a_beta_distribution(alpha):
  images, labels = _batch(400, 1, 1)
  weights = np.concatenate(
    [
      _shares(mixup(jax.random.key(seed), images, labels, alpha, CLASSES, per_image=True)[1])
      for seed in range(3)
    ]
  )
  assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix_cuts_what_its_released_code_cuts():
  height, width, count = 24, 16, 400
  images, labels = _batch(count, height, width)
  made, made_labels = cutmix(jax.random.key(0), images, labels, 1.0, CLASSES, per_image=True)
  _check_cutmix(images, np.asarray(made), _shares(made_labels))
  shares = _shares(made_labels)
  # The released code, in a loop: sides truncated, halved downwards, cut off at the borders.
  rng = np.random.default_rng(1)
  expected = []
  for _ in range(4000):
    side = np.sqrt(1 - rng.beta(1.0, 1.0))
    half_h, half_w = int(height * side) // 2, int(width * side) // 2
    y, x = rng.integers(height), rng.integers(width)
    rows = np.clip(y + half_h, 0, height) - np.clip(y - half_h, 0, height)
    columns = np.clip(x + half_w, 0, width) - np.clip(x - half_w, 0, width)
    expected.append(1 - rows * columns / (height * width))
  assert stats.ks_2samp(shares, expected).pvalue > 1e-3


def test_the_boxes_of_cutmix_lie_everywhere():
  images, labels = _batch(400, 8, 10)
  made, made_labels = cutmix(jax.random.key(0), images, labels, 1.0, CLASSES, per_image=True)
  boxes = _check_cutmix(images, np.asarray(made), _shares(made_labels))
  boxes = np.array([box for box in boxes if box is not None])
  middle = np.stack([boxes[:, 0] + boxes[:, 1], boxes[:, 2] + boxes[:, 3]], axis=1) / 2
  deviation = middle.std(axis=0) / np.sqrt(len(middle))
  # A center is a pixel y, the box [y - half, y + half): on average half a pixel before the middle.
  assert (np.abs(middle.mean(axis=0) - np.array([7, 9]) / 2) < 0.5 + 4 * deviation).all()
  assert abs(np.corrcoef(middle.T)[0, 1]) < 5 / np.sqrt(len(middle))


@pytest.mark.parametrize(('probability', 'cutmix_share'), [(0.6, 0.25), (0.0, 0.5), (1, 1)])
def test_mixing_draws_between_nothing_mixup_and_cutmix(probability, cutmix_share):
  images, labels = _batch(400, 8, 8)
  made, made_labels = jax.jit(
    lambda key: mix.mix(
      key,
      images,
      labels,
      CLASSES,
      mixup_alpha=1.0,
      cutmix_alpha=1.0,
      probability=probability,
      cutmix_share=cutmix_share,
      per_image=True,
    )
  )(jax.random.key(0))
  made, shares = np.asarray(made), _shares(made_labels)
  counts = {'nothing': 0, 'mixup': 0, 'cutmix': 0}
  for i in range(400):
    from_either = (made[i] == images[i]) | (made[i] == images[i - 1])
    if (made[i] == images[i]).all():
      counts['nothing'] += 1
      np.testing.assert_allclose(shares[i], 1)
    elif from_either.all():
      counts['cutmix'] += 1
      np.testing.assert_allclose(shares[i], (made[i] == images[i]).mean(), atol=1e-6)
    else:
      counts['mixup'] += 1
      expected = shares[i] * images[i] + (1 - shares[i]) * images[i - 1]
      np.testing.assert_allclose(made[i], expected, atol=1e-5)
  # One box of CutMix in sixteen is smaller than two pixels a side, and nothing is cut.
  cut = probability * cutmix_share
  for kind, share in (
    ('mixup', probability * (1 - cutmix_share)),
    ('cutmix', cut * (1 - 1 / 16)),
    ('nothing', 1 - probability + cut / 16),
  ):
    deviation = np.sqrt(400 * share * (1 - share))
    assert abs(counts[kind] - 400 * share) <= 4 * deviation, counts


def test_a_batch_draws_once_unless_each_image_does():
  images, labels = _batch(30)
  mixed = jax.jit(
    lambda key: mix.mix(
      key, images, labels, CLASSES, mixup_alpha=1.0, cutmix_alpha=1.0, probability=0.7
    )
  )
  kinds = set()
  for seed in range(40):
    made, made_labels = (np.asarray(part) for part in mixed(jax.random.key(seed)))
    shares = _shares(made_labels)
    np.testing.assert_allclose(shares, shares[0], atol=1e-6)
    is_own = (made == images).all(axis=(1, 2, 3))
    is_either = ((made == images) | (made == np.roll(images, 1, axis=0))).all(axis=(1, 2, 3))
    assert len(set(is_own)) == len(set(is_either)) == 1
    kinds.add((bool(is_own[0]), bool(is_either[0])))
  assert kinds == {(True, True), (False, True), (False, False)}


def test_labels_may_be_probabilities_already():
  images, labels = _batch(12)
  hot = np.eye(CLASSES, dtype=np.float32)[labels]
  for function in (mixup, cutmix):
    key = jax.random.key(2)
    from_numbers = function(key, images, labels, 1.0, CLASSES)
    from_hot = function(key, images, hot, 1.0)
    for one, other in zip(from_numbers, from_hot, strict=True):
      np.testing.assert_array_equal(one, other)
  smooth = 0.9 * hot + 0.1 / CLASSES
  _, made = mixup(jax.random.key(2), images, smooth, 1.0)
  np.testing.assert_allclose(made.sum(axis=1), 1, rtol=1e-5)


def test_an_image_alone_is_its_own_partner():
  images, labels = _batch(1)
  made, made_labels = mixup(jax.random.key(0), images, labels, 1.0, CLASSES)
  np.testing.assert_allclose(made, images, atol=1e-6)
  np.testing.assert_allclose(made_labels[0, 0], 1, atol=1e-6)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32, jnp.uint8])
def test_the_dtype_of_floating_images_stays(dtype):
  images, labels = _batch(4)
  for function in (mixup, cutmix):
    made, made_labels = function(jax.random.key(0), jnp.asarray(images, dtype), labels, 1.0, 9)
    assert made.dtype == (jnp.float32 if dtype == jnp.uint8 else dtype)
    assert made_labels.dtype == jnp.float32


@pytest.mark.parametrize(
  ('call', 'text'),
  [
    (lambda *batch: mixup(*batch, -1.0, 9), 'mixup_alpha=-1.0'),
    (lambda *batch: cutmix(*batch, -1.0, 9), 'cutmix_alpha=-1.0'),
    (lambda *batch: mixup(*batch, 1.0), 'set num_classes'),
    (lambda *batch: mix.mix(*batch, 9), 'mixup_alpha=0 and cutmix_alpha=0'),
  ],
)
def test_what_cannot_be_is_refused(call, text):
  with pytest.raises(UserError, match=text):
    call(jax.random.key(0), *_batch(4))
