"""RandAugment: operations drawn at random for each image, all of one magnitude.

Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space,
NeurIPS 2020, https://arxiv.org/abs/1909.13719. The operations are in `distort`.

The text of the paper lists 14 operations, with `identity`; its released code (tensorflow/tpu,
EfficientNet) has 16, without `identity` but with `invert`, `solarize_add` and `cutout`. `PAPER` and
`RELEASED` are these lists; the default is the code's. Departures from the released code: distances
in pixels, meant for images of 224 x 224, are scaled with the image; `contrast` has Pillow's mean
gray, where the code divides the number of pixels by 256; smoothed and mean gray values are rounded,
as in Pillow, not truncated; posterizing keeps 8 bits at most.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.data.augment.distort import OPERATIONS, distort
from attn_flax.errors import UserError, check_choice, check_counts, check_flags, check_range, shown

PAPER = tuple(op for op in OPERATIONS if op not in ('invert', 'solarize_add', 'cutout'))
RELEASED = tuple(op for op in OPERATIONS if op != 'identity')
_MOST_OPERATIONS = 100  # Applied to an image, one after the other.


def randaugment(
  key: jax.Array,
  images: jax.Array,
  num_ops: int = 2,
  magnitude: float = 10.0,
  operations: Sequence[str] = RELEASED,
  increasing: bool = False,
) -> jax.Array:
  """Applies to each image operations of its own, drawn uniformly from a list.

  Args:
    key: random key.
    images: [N, H, W, C], 0..255, with one or three channels; floating point images are rounded.
    num_ops: operations for each image, one after the other; an operation may come twice.
    magnitude: of all operations, 0..30 on the scale of the released code; see `arguments`.
    operations: names of `OPERATIONS`.
    increasing: whether every operation gets stronger with the magnitude; see `arguments`.

  Returns:
    [N, H, W, C], same dtype.

  Raises:
    UserError: an unknown operation or none, or a number or magnitude out of range.
  """
  check_counts(_MOST_OPERATIONS, num_ops=num_ops)
  if not isinstance(operations, list | tuple):
    raise UserError(
      f'operations={shown(operations)} is impossible; give names from {", ".join(OPERATIONS)}'
    )
  if not operations:
    raise UserError(f'RandAugment needs operations: choose from {", ".join(OPERATIONS)}')
  for operation in operations:
    check_choice('operations', operation, OPERATIONS)
  count, height, width, _ = images.shape
  names = list(OPERATIONS)
  codes = jnp.array([names.index(operation) for operation in operations])
  middle, spread = arguments(magnitude, height, width, increasing)
  pixels = images
  if images.dtype != jnp.uint8:
    pixels = jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)

  def apply_one(pixels: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
    choice_key, sign_key, center_key = jax.random.split(key, 3)
    chosen = codes[jax.random.randint(choice_key, (count,), 0, len(operations))]
    sign = jax.random.rademacher(sign_key, (count,), jnp.float32)
    center = jax.random.randint(center_key, (count, 2), 0, jnp.array([height, width]))
    argument = jnp.array(middle)[chosen] + sign * jnp.array(spread)[chosen]
    return distort(pixels, chosen, argument, center, operations), None

  pixels, _ = jax.lax.scan(apply_one, pixels, jax.random.split(key, num_ops))
  return pixels.astype(images.dtype)


def arguments(
  magnitude: float, height: int, width: int, increasing: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """The arguments of all operations, in the order of `OPERATIONS`, for images [H, W].

  In the released code, arguments grow linearly with the magnitude and without a bound; `posterize`
  and `solarize` get weaker with the magnitude, and `color`, `contrast`, `brightness` and
  `sharpness` change nothing at 5. With `increasing`, these six have torchvision's ranges: they
  change nothing at 0, and are strongest from 10 on.

  Args:
    magnitude: of all operations, 0..30 on the scale of the released code.
    height: H in pixels.
    width: W in pixels.
    increasing: whether every operation gets stronger with the magnitude.

  Returns:
    Middle and spread, [17] float32 each: an argument is middle + spread or middle - spread.

  Raises:
    UserError: a magnitude outside of 0..30.
  """
  check_range('magnitude', magnitude, 0, 30)
  check_flags(increasing=increasing)
  level = magnitude / 10
  end = min(level, 1.0)
  enhancement = (1.0, 0.9 * end) if increasing else (0.1 + 1.8 * level, 0.0)
  of = {
    'rotate': (0.0, 30 * level),
    'posterize': (8 - round(4 * end) if increasing else min(_whole(4 * level), 8), 0.0),
    'solarize': (256 - _whole(256 * end) if increasing else _whole(256 * level), 0.0),
    'solarize_add': (_whole(110 * level), 0.0),
    'color': enhancement,
    'contrast': enhancement,
    'brightness': enhancement,
    'sharpness': enhancement,
    'shear_x': (0.0, 0.3 * level),
    'shear_y': (0.0, 0.3 * level),
    'translate_x': (0.0, 100 * level * width / 224),
    'translate_y': (0.0, 100 * level * height / 224),
    'cutout': (_whole(40 * level * min(height, width) / 224), 0.0),
  }
  table = np.array([of.get(operation, (0.0, 0.0)) for operation in OPERATIONS], np.float32)
  return table[:, 0], table[:, 1]


def _whole(number: float) -> int:
  """Truncates, but takes a number that misses an integer only by rounding for that integer."""
  return int(number + 1e-6)
