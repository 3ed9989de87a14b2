"""The interface of an attention mechanism: how it is called, and what its class declares.

A mechanism is a Flax module of one of two kinds, `Refiner` and `ConvLike`. It inherits from no
class of this library: it fulfills a Protocol by its methods and fields. What it may declare beside
them is in `Traits`. Feature maps are [N, H, W, C]. The number of channels is read from the input,
and the result has the dtype of the input, or that of the field `dtype` where the class has one.
"""

from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax


class Refiner(Protocol):
  """A mechanism that acts on a feature map and keeps its shape, such as squeeze-and-excitation."""

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C].

    Args:
      x: the feature map.
      train: whether batch norms use the statistics of the batch instead of the running ones; every
        refiner takes this argument.

    Raises:
      UserError: for a feature map that does not fit the mechanism, such as one with too few
        channels.
    """
    ...


@runtime_checkable
class ConvLike(Protocol):
  """A mechanism that replaces a convolution, made and called like one (`where = 'conv'`).

  Attributes:
    features: output channels.
    stride: step in both directions.
  """

  features: int
  stride: int

  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), features].

    Raises:
      UserError: for features that cannot be split over the heads, or a feature map that does not
        fit.
    """
    ...


class Gate(Protocol):
  """A part of `compose` that returns logits, which an activation turns into factors in 0..1."""

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> logits, [N, 1, 1, C] of a channel gate, [N, H, W, 1] of a spatial gate."""
    ...


class Mixer(Protocol):
  """A part of `compose` that returns a feature map to be added, and declares `returns = 'map'`."""

  returns: ClassVar[str]

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    ...


@runtime_checkable
class Attends(Protocol):
  """A module with attention between positions that returns the weights of given queries."""

  def weights(self, x: jax.Array, queries: jax.Array) -> jax.Array | None:
    """How much some queries attend to every key.

    Args:
      x: what the module was called with, [N, H, W, C] or tokens [N, T, C].
      queries: [Q] int32, numbers of the query positions, counted row by row: over x for a
        refiner, over the feature map of its keys for a module that replaces a convolution.

    Returns:
      [N, heads, Q, K] float32; None where the module does not attend with its fields as they are.
    """
    ...


class Traits(NamedTuple):
  """What a mechanism's class declares by class attributes, with the default of each.

  Attributes:
    where: its usual place in a network ('conv', 'branch', 'block' or 'stage'); 'conv' says that it
      is a `ConvLike`, anything else that it is a `Refiner`. Class attribute `where`.
    stages: the stages of a network where it acts by default, as a slice of all of them.
      Class attribute `default_stages`.
    every: it acts in a stage's block i, counted from 0, where `(i + 1) % every == 0`, by
      default. Class attribute `default_every`.
    per_stage: names of the fields for which a network takes one value per stage. An instance holds
      the value of its own stage. Class attribute `per_stage`.
    returns: what it returns as a part of `compose`, 'logits' (a `Gate`) or 'map' (a `Mixer`).
      Class attribute `returns`.
  """

  where: str = 'branch'
  stages: slice = slice(None)
  every: int = 1
  per_stage: tuple[str, ...] = ()
  returns: str = 'logits'


def traits(module: type) -> Traits:
  """What a mechanism's class declares about itself, with the defaults where it declares nothing."""
  usual = Traits()
  return Traits(
    where=getattr(module, 'where', usual.where),
    stages=getattr(module, 'default_stages', usual.stages),
    every=getattr(module, 'default_every', usual.every),
    per_stage=getattr(module, 'per_stage', usual.per_stage),
    returns=getattr(module, 'returns', usual.returns),
  )


@runtime_checkable
class _DeclaresStart(Protocol):
  @property
  def starts_as_identity(self) -> bool: ...


def starts_as_identity(module: nn.Module) -> bool:
  """Whether a refiner with freshly initialized parameters returns its input.

  A class declares it by an attribute or property `starts_as_identity`; without one: False.
  """
  return isinstance(module, _DeclaresStart) and bool(module.starts_as_identity)


def attends(module: nn.Module) -> bool:
  """Whether a module fulfills `Attends`: its class has a method, not just a field, `weights`."""
  kind: type = type(module)
  return issubclass(kind, Attends) and callable(kind.weights)
