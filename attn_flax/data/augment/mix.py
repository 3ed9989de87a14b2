"""Mixup and CutMix: images are mixed with others of their batch, and labels likewise.

* Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018,
  https://arxiv.org/abs/1710.09412
* Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features,
  ICCV 2019, https://arxiv.org/abs/1905.04899

An image's partner is the image before it in the batch; that of the first image is the last. As
batches are in random order, that is as good as a random permutation, and where a batch is spread
over devices only one image per device moves to another; a random permutation would move the whole
batch to every device. No image is its own partner, unless it is alone in the batch.

Departure from the papers: on request each image has a mixing weight or box of its own, instead of
one for the batch.
"""

import jax
import jax.numpy as jnp

from attn_flax.data.augment.boxes import inside
from attn_flax.errors import MOST_CLASSES, UserError, check_counts, check_flags, check_range

Mixed = tuple[jax.Array, jax.Array]
MOST_ALPHA = 1000.0  # Beyond it, all weights are close to 1/2.


def mix(
  key: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  num_classes: int | None = None,
  *,
  mixup_alpha: float = 0.0,
  cutmix_alpha: float = 0.0,
  probability: float = 1.0,
  cutmix_share: float = 0.5,
  per_image: bool = False,
) -> Mixed:
  """Applies mixup or CutMix; where both are on, one of them is drawn at random.

  Mixup replaces each image by a weighted mean of itself and its partner, whose weight is drawn from
  Beta(alpha, alpha). CutMix replaces a box of each image by the same box of its partner: the share
  of the image that the box covers is drawn from Beta(alpha, alpha), its shape is the image's, and
  its center is a random pixel; the part beyond the edge is cut off. Labels are mixed in proportion
  to the pixels.

  Args:
    key: random key.
    images: [N, H, W, C], normalized.
    labels: [N] integers, or [N, K] probabilities.
    num_classes: K, for labels [N].
    mixup_alpha: alpha of mixup; 0: no mixup.
    cutmix_alpha: alpha of CutMix; 0: no CutMix.
    probability: probability that anything is mixed.
    cutmix_share: probability of CutMix instead of mixup, where both are on.
    per_image: draw everything for each image instead of once for the batch.

  Returns:
    Images [N, H, W, C] of the same dtype (float32 for integers), and labels [N, K] float32.

  Raises:
    UserError: labels [N] without `num_classes`, a value out of range, or both alphas are 0.
  """
  check_range('mixup_alpha', mixup_alpha, 0, MOST_ALPHA)
  check_range('cutmix_alpha', cutmix_alpha, 0, MOST_ALPHA)
  check_range('probability', probability, 0, 1)
  check_range('cutmix_share', cutmix_share, 0, 1)
  check_flags(per_image=per_image)
  if not mixup_alpha and not cutmix_alpha:
    raise UserError('mixup_alpha=0 and cutmix_alpha=0 mix nothing; set one to a positive number')
  count = len(images) if per_image else 1
  mix_key, choice_key, mixup_key, cutmix_key = jax.random.split(key, 4)
  candidates = []
  if mixup_alpha:
    candidates.append(_mixup_weights(mixup_key, count, mixup_alpha))
  if cutmix_alpha:
    candidates.append(_cutmix_weights(cutmix_key, count, images.shape[1:3], cutmix_alpha))
  weights = candidates[0]
  if len(candidates) == 2:
    is_cutmix = jax.random.bernoulli(choice_key, float(cutmix_share), (count, 1, 1, 1))
    weights = jnp.where(is_cutmix, candidates[1], weights)
  is_mixed = jax.random.bernoulli(mix_key, float(probability), (count, 1, 1, 1))
  return _mixed(images, labels, num_classes, jnp.where(is_mixed, weights, 1.0))


def _mixed(
  images: jax.Array, labels: jax.Array, num_classes: int | None, weights: jax.Array
) -> Mixed:
  """Mixes with `weights`, those of the image itself: [N or 1, H or 1, W or 1, 1]."""
  if labels.ndim == 1:
    if num_classes is None:
      raise UserError('mixing labels [N] needs the number of classes: set num_classes')
    check_counts(MOST_CLASSES, num_classes=num_classes)
    labels = jax.nn.one_hot(labels, num_classes)
  labels = labels.astype(jnp.float32)
  if not jnp.issubdtype(images.dtype, jnp.floating):
    images = images.astype(jnp.float32)
  # The mean of many ones may be rounded to above 1, which would make a probability negative.
  share = jnp.minimum(weights.mean(axis=(1, 2)), 1.0)
  weights = weights.astype(images.dtype)
  images = weights * images + (1 - weights) * jnp.roll(images, 1, axis=0)
  return images, share * labels + (1 - share) * jnp.roll(labels, 1, axis=0)


def _mixup_weights(key: jax.Array, count: int, alpha: float) -> jax.Array:
  """The weight of the image itself: [count, 1, 1, 1]."""
  return _beta(key, count, alpha)[:, None, None, None]


def _cutmix_weights(key: jax.Array, count: int, size: tuple[int, ...], alpha: float) -> jax.Array:
  """0 inside a random box and 1 elsewhere: [count, H, W, 1]."""
  height, width = size
  share_key, center_key = jax.random.split(key)
  side = jnp.sqrt(_beta(share_key, count, alpha))[:, None]
  sides = jnp.array([height, width])
  half = (sides * side).astype(jnp.int32) // 2
  center = jax.random.randint(center_key, (count, 2), 0, sides)
  boxes = jnp.concatenate([center - half, 2 * half], axis=1)
  return 1.0 - inside(boxes, height, width)


def _beta(key: jax.Array, count: int, alpha: float) -> jax.Array:
  """[count] random numbers from Beta(alpha, alpha)."""
  if alpha == 1:  # Beta(1, 1) is uniform; this compiles a second faster.
    return jax.random.uniform(key, (count,))
  return jax.random.beta(key, float(alpha), float(alpha), (count,))
