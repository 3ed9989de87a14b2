"""Augmentation and normalization of a batch: pure functions, for use inside jit.

Random numbers are drawn per image from one key, so that the result does not depend on how the
batch is spread over devices. The operations, each with its paper, are in `crop`, `color`,
`randaugment`, `erase` and `mix`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from attn_flax.data import crops
from attn_flax.data.augment import erase
from attn_flax.data.augment.boxes import MOST_PIXELS, MOST_RATIO
from attn_flax.data.augment.color import MOST_STRENGTH, color_jitter, random_gray
from attn_flax.data.augment.crop import (
  PaddingMode,
  Size,
  center_crop,
  random_crop,
  random_flip,
  random_resized_crop,
)
from attn_flax.data.augment.mix import MOST_ALPHA, mix
from attn_flax.data.augment.randaugment import PAPER, RELEASED, randaugment
from attn_flax.errors import (
  MOST_CLASSES,
  UserError,
  check_choice,
  check_counts,
  check_flags,
  check_interval,
  check_pair,
  check_range,
  shown,
)

RandAugmentSet = Literal['released', 'paper']
_MOST_MEAN = 1000.0  # Of a channel's mean and deviation, in 0..1 units.
_LEAST_STD = 1e-6
_NUM_KEYS = 8  # Seven for the images, the last for mixing.
_OPERATIONS = {'released': RELEASED, 'paper': PAPER}


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Augmentation and normalization of uint8 images.

  Training crops, flips, changes colors and applies RandAugment, in this order; after normalization
  it erases parts of the images and mixes them. Evaluation cuts out the central window of `size`,
  and normalizes.

  Attributes:
    mean: mean of each channel, in 0..1 units.
    std: standard deviation of each channel, in 0..1 units.
    crop_padding: pixels of padding on each side before a random crop back to size; 0: no crop.
    padding_mode: what the padding holds: black ('constant') or the mirrored image ('reflect').
    flip: whether to mirror each image from left to right with probability 1/2.
    size: height and width in pixels of the images that the network gets; None: as they come.
    resized_crop: whether to cut random boxes and resize them, instead of the padded crop.
    crop_scale: smallest and largest share of the image's area that such a box covers.
    crop_ratio: its smallest and largest width / height.
    brightness: strength of the change of brightness: factors in 1 +- strength; 0: none.
    contrast: strength of the change of contrast, likewise.
    saturation: strength of the change of saturation, likewise.
    hue: largest shift of the hue in either direction, in turns, at most 0.5; 0: none.
    random_order: whether to draw the order of these four changes for each batch.
    grey: probability that an image becomes gray.
    randaugment: number of operations and their magnitude, 0..30; None: no RandAugment.
    randaugment_set: the operations: those of the 'released' code, or of the 'paper'.
    randaugment_increasing: whether every operation gets stronger with the magnitude.
    cutout: side in pixels of the square that is erased from each image; 0: none.
    erasing: probability that a box of an image is erased.
    erasing_area: smallest and largest share of the image's area that such a box covers.
    erasing_ratio: its smallest and largest width / height.
    erasing_fill: what the box is filled with: 'zeros', which is the mean color, or 'noise'.
    mixup_alpha: alpha of mixup; 0: no mixup.
    cutmix_alpha: alpha of CutMix; 0: no CutMix.
    mix_probability: probability that anything is mixed.
    cutmix_share: probability of CutMix instead of mixup, where both are on.
    mix_per_image: whether to draw the mixing for each image instead of once for the batch.
    num_classes: number of classes; mixing needs it.

  Raises:
    UserError: a value is out of range.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  crop_padding: int = 0
  padding_mode: PaddingMode = 'constant'
  flip: bool = False
  size: Size | None = None
  resized_crop: bool = False
  crop_scale: tuple[float, float] = crops.SCALE
  crop_ratio: tuple[float, float] = crops.RATIO
  brightness: float = 0.0
  contrast: float = 0.0
  saturation: float = 0.0
  hue: float = 0.0
  random_order: bool = False
  grey: float = 0.0
  randaugment: tuple[int, float] | None = None
  randaugment_set: RandAugmentSet = 'released'
  randaugment_increasing: bool = False
  cutout: int = 0
  erasing: float = 0.0
  erasing_area: tuple[float, float] = erase.AREA
  erasing_ratio: tuple[float, float] = erase.RATIO
  erasing_fill: erase.Fill = 'zeros'
  mixup_alpha: float = 0.0
  cutmix_alpha: float = 0.0
  mix_probability: float = 1.0
  cutmix_share: float = 0.5
  mix_per_image: bool = False
  num_classes: int | None = None

  def __post_init__(self) -> None:
    self._check_colors()
    check_flags(
      flip=self.flip,
      resized_crop=self.resized_crop,
      random_order=self.random_order,
      randaugment_increasing=self.randaugment_increasing,
      mix_per_image=self.mix_per_image,
    )
    if self.size is not None:
      for i, side in enumerate(check_pair('size', self.size)):
        check_range(f'size[{i}]', side, 1, MOST_PIXELS, whole=True)
    if self.num_classes is not None:
      check_counts(MOST_CLASSES, num_classes=self.num_classes)
    check_choice('padding_mode', self.padding_mode, get_args(PaddingMode))
    check_choice('erasing_fill', self.erasing_fill, get_args(erase.Fill))
    check_choice('randaugment_set', self.randaugment_set, _OPERATIONS)
    for name in ('crop_padding', 'cutout'):
      check_range(name, getattr(self, name), 0, MOST_PIXELS, whole=True)
    for name in ('brightness', 'contrast', 'saturation'):
      check_range(name, getattr(self, name), 0, MOST_STRENGTH)
    for name in ('mixup_alpha', 'cutmix_alpha'):
      check_range(name, getattr(self, name), 0, MOST_ALPHA)
    for name in ('grey', 'erasing', 'mix_probability', 'cutmix_share'):
      check_range(name, getattr(self, name), 0, 1)
    check_range('hue', self.hue, 0, 0.5)
    for name, most in (
      ('crop_scale', 1),
      ('erasing_area', 1),
      ('crop_ratio', MOST_RATIO),
      ('erasing_ratio', MOST_RATIO),
    ):
      check_interval(name, getattr(self, name), most, above=0)
    if self.randaugment is not None:
      operations, magnitude = check_pair('randaugment', self.randaugment)
      check_range('randaugment[0]', operations, 1, 100, whole=True)
      check_range('randaugment[1]', magnitude, 0, 30)
    if self.mixes and self.num_classes is None:
      raise UserError('mixup and CutMix need the number of classes: set num_classes')

  def _check_colors(self) -> None:
    for name in ('mean', 'std'):
      values = getattr(self, name)
      if not isinstance(values, tuple) or not values:
        raise UserError(
          f'{name}={shown(values)} is impossible; give a tuple of one number for each channel'
        )
      for i, value in enumerate(values):
        check_range(f'{name}[{i}]', value, _LEAST_STD if name == 'std' else -_MOST_MEAN, _MOST_MEAN)
    if len(self.mean) != len(self.std):
      raise UserError(
        f'mean={self.mean} and std={self.std} differ in length; give one number for each channel'
      )

  @property
  def mixes(self) -> bool:
    """Whether the labels that `train_batch` returns are probabilities."""
    return bool(self.mixup_alpha or self.cutmix_alpha)

  def train_batch(
    self, key: jax.Array, images: jax.Array, labels: jax.Array
  ) -> dict[str, jax.Array]:
    """Augments, normalizes and mixes a batch.

    Args:
      key: random key.
      images: [N, H, W, C] uint8.
      labels: [N] integers.

    Returns:
      'image' [N, h, w, C] float32, the images that `train` returns, mixed if `mixes`; and 'label',
      the labels as given, or probabilities [N, K] float32 if `mixes`.
    """
    images = self.train(key, images)
    if self.mixes:
      images, labels = mix(
        jax.random.split(key, _NUM_KEYS)[7],
        images,
        labels,
        self.num_classes,
        mixup_alpha=self.mixup_alpha,
        cutmix_alpha=self.cutmix_alpha,
        probability=self.mix_probability,
        cutmix_share=self.cutmix_share,
        per_image=self.mix_per_image,
      )
    return {'image': images, 'label': labels}

  def train(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """Augments and normalizes images [N, H, W, C] uint8; returns [N, h, w, C] float32."""
    # Each operation has a key of its own, so that switching it on does not change the others.
    keys = jax.random.split(key, _NUM_KEYS)
    if self.resized_crop:
      images = random_resized_crop(keys[0], images, self.size, self.crop_scale, self.crop_ratio)
    elif self.crop_padding or self.size is not None:
      images = random_crop(keys[0], images, self.crop_padding, self.padding_mode, self.size)
    if self.flip:
      images = random_flip(keys[1], images)
    strengths = (self.brightness, self.contrast, self.saturation, self.hue)
    images = color_jitter(keys[2], images, *strengths, random_order=self.random_order)
    if self.grey:
      images = random_gray(keys[3], images, self.grey)
    if self.randaugment is not None:
      number, magnitude = self.randaugment
      operations = _OPERATIONS[self.randaugment_set]
      images = randaugment(
        keys[4], images, number, magnitude, operations, self.randaugment_increasing
      )
    images = normalize(images, self.mean, self.std)
    if self.cutout:
      images = erase.cutout(keys[5], images, self.cutout)
    if self.erasing:
      images = erase.random_erasing(
        keys[6], images, self.erasing, self.erasing_area, self.erasing_ratio, self.erasing_fill
      )
    return images

  def evaluate(self, images: jax.Array) -> jax.Array:
    """Center-crops images [N, H, W, C] uint8 to `size`, if set, and normalizes them to float32."""
    if self.size is not None:
      images = center_crop(images, self.size)
    return normalize(images, self.mean, self.std)


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
  """Maps uint8 images [N, H, W, C] to (image / 255 - mean) / std, float32.

  Args:
    images: [N, H, W, C] uint8.
    mean: mean of each of the C channels, in 0..1 units.
    std: standard deviation of each channel, in 0..1 units.
  """
  scaled = images.astype(jnp.float32) / 255
  return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
