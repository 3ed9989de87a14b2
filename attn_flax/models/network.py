"""The interface of every network of the library, which the rest of the package relies on."""

import dataclasses
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import jax
import jax.numpy as jnp

from attn_flax.errors import MOST_CLASSES, UserError, check_choice, check_counts, shown
from attn_flax.layers.types import Dtype, Model
from attn_flax.models.placement import Placement

# What a network returns: logits, or, where it has no head, its feature maps by name.
Output = jax.Array | dict[str, jax.Array]
# Compute dtypes.
DTYPES = ('float32', 'bfloat16')
MOST_BLOCKS = 256  # Per stage; each block is traced. ResNet-1202 has 200.


def dtype_name(dtype: Dtype) -> str:
  """The name of a compute dtype, however it is given: 'bfloat16', `jnp.bfloat16`, `jnp.dtype(...)`.

  Raises:
    UserError: for a dtype that is not one of `DTYPES`.
  """
  try:
    name = dtype if isinstance(dtype, str) or dtype is None else jnp.dtype(dtype).name
  except TypeError:
    name = shown(dtype)
  check_choice('dtype', name, DTYPES)
  return str(name)


@runtime_checkable
class Network(Model, Protocol):
  """A Linen module over images, in stages, that attention can be put into.

  It is called `model(images, train=...)` inside `init` and `apply`:

    variables = model.init(key, images, train=False)          # {'params', 'batch_stats'}
    logits = model.apply(variables, images, train=False)      # [N, num_classes] float32

  It records the feature map of each stage with `attn_flax.layers.tap`, under the name that the
  map has in the output of a network without a head.

  To add a network, write a class with these members and name it in `attn_flax.models.zoo`. What a
  config can set is a dataclass field of the class, everything else a property or a `ClassVar`.

  Attributes:
    places: the places (of `placement.PLACES`) where it takes attention; () where it takes
      none.
    conv_stages: the stages, as a slice of all, where a mechanism replaces convolutions by default;
      None: the mechanism's own default holds.
    groups: groups of the convolutions at 'conv'; mechanisms replace only those of one group.
    num_stages: number of stages.
    depths: blocks of each stage.
    stride: input pixels per pixel of the last feature map along a side, and the smallest side of
      its images.
    num_classes: number of logits; None: no head, and the network returns its feature maps.
    attention: the placements of attention modules; () without attention.
    frozen: stages whose weights and running statistics stay as they are in training; 0 is the stem.
    dtype: compute dtype, 'float32' or 'bfloat16'; parameters and logits are float32.
  """

  # Linen modules are dataclasses.
  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

  @property
  def places(self) -> tuple[str, ...]: ...  # noqa: D102

  @property
  def conv_stages(self) -> slice | None: ...  # noqa: D102

  @property
  def groups(self) -> int: ...  # noqa: D102

  @property
  def num_stages(self) -> int: ...  # noqa: D102

  @property
  def depths(self) -> tuple[int, ...]: ...  # noqa: D102

  @property
  def stride(self) -> int: ...  # noqa: D102

  @property
  def num_classes(self) -> int | None: ...  # noqa: D102

  @property
  def attention(self) -> tuple[Placement, ...]: ...  # noqa: D102

  @property
  def frozen(self) -> tuple[int, ...]: ...  # noqa: D102

  @property
  def dtype(self) -> str: ...  # noqa: D102

  def __call__(self, images: jax.Array, /, *, train: bool) -> Output:
    """Normalized images [N, H, W, 3] to logits [N, num_classes] float32, or to feature maps.

    Args:
      images: height and width are at least `stride`.
      train: whether norms use the statistics of the batch and dropout acts; dropout then needs
        `rngs={'dropout': key}`.

    Returns:
      The logits; where `num_classes` is None, the feature maps of the stages, 'stage1' to the
      last, each [N, H, W, C] in the compute dtype.

    Raises:
      UserError: for images that are too small for the network.
    """
    ...

  def check(self) -> None:
    """Raises `UserError` for fields that are impossible or do not go together."""
    ...

  def clone(self, **updates: Any) -> Self:
    """A copy with some fields replaced."""
    ...


def check_classes(num_classes: object) -> None:
  """Raises `UserError` unless `num_classes` is a number of classes, or None for no head."""
  if num_classes is not None:
    check_counts(MOST_CLASSES, num_classes=num_classes)


def check_images(images: jax.Array, least: int, fix: str) -> None:
  """Raises `UserError` for images that a network cannot take.

  Args:
    images: what the network is called with.
    least: the smallest side that the network takes, in pixels.
    fix: what to do about smaller images.
  """
  if images.ndim != 4 or not images.shape[-1]:
    raise UserError(
      f'images of shape {images.shape} are impossible; give a batch [N, H, W, 3], channels last'
    )
  height, width, channels = images.shape[1:]
  too_small = min(height, width) < least
  # The channels of photographs in place of the height.
  moved = height in (1, 3, 4) and min(width, channels) > 4
  if moved and (too_small or width == channels):
    raise UserError(
      f'images of shape {images.shape} look like [N, C, H, W], but must be [N, H, W, C]; give '
      'images.transpose(0, 2, 3, 1)'
    )
  if too_small:
    raise UserError(
      f'images of {height}x{width} pixels are too small for this network, which takes '
      f'{least}x{least} or more; {fix}'
    )
