"""Random crops and flips, and normalisation: pure functions of whole batches, for use inside jit.

Random numbers are drawn per image from one key, so that the result does not depend on how the
batch is spread over devices.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from attn_flax.errors import check_choice

PaddingMode = Literal['constant', 'reflect']


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What happens to uint8 images on their way into the network.

  Attributes:
    mean: mean of each channel, in 0..1 units.
    std: standard deviation of each channel, in 0..1 units.
    crop_padding: pixels of padding on each side before a random crop back to size; 0: no crop.
    padding_mode: what the padding holds: black ('constant') or the mirrored image ('reflect').
    flip: whether to mirror every second image, on average, from left to right.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  crop_padding: int = 0
  padding_mode: PaddingMode = 'constant'
  flip: bool = False

  def train(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """Augments and normalises images [N, H, W, C] uint8; returns float32."""
    crop_key, flip_key = jax.random.split(key)
    if self.crop_padding:
      images = random_crop(crop_key, images, self.crop_padding, self.padding_mode)
    if self.flip:
      images = random_flip(flip_key, images)
    return normalise(images, self.mean, self.std)

  def evaluate(self, images: jax.Array) -> jax.Array:
    """Only normalises images [N, H, W, C] uint8; returns float32."""
    return normalise(images, self.mean, self.std)


def random_crop(
  key: jax.Array, images: jax.Array, padding: int, mode: PaddingMode = 'constant'
) -> jax.Array:
  """Pads each image on all sides and cuts a window of its own size from a random place.

  Args:
    key: random key.
    images: [N, H, W, C], any dtype.
    padding: pixels on each side; each of the (2 * padding + 1)**2 windows is equally likely.
    mode: 'constant' pads with 0, 'reflect' with the mirrored image, its edge not repeated.

  Returns:
    [N, H, W, C], same dtype.

  Raises:
    UserError: an unknown mode.
  """
  check_choice('padding mode', mode, get_args(PaddingMode))
  count, height, width, channels = images.shape
  margin = (padding, padding)
  padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)), mode=mode)
  corners = jax.random.randint(key, (count, 2), 0, 2 * padding + 1)

  def window(image: jax.Array, corner: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

  return jax.vmap(window)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors each of images [N, H, W, C] from left to right with probability 1/2."""
  is_flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
  return jnp.where(is_flipped, images[:, :, ::-1], images)


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
  """Maps uint8 images [N, H, W, C] to (image / 255 - mean) / std, float32.

  Args:
    images: [N, H, W, C] uint8.
    mean: mean of each of the C channels, in 0..1 units.
    std: standard deviation of each channel, in 0..1 units.
  """
  scaled = images.astype(jnp.float32) / 255
  return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
