"""Where in a network an attention module acts, as data, so that networks name no mechanism."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax

from attn_flax.attention.protocols import starts_as_identity, traits
from attn_flax.layers.types import Dtype

if TYPE_CHECKING:
  from _typeshed import DataclassInstance

# In the order of the forward pass.
PLACES = (
  'conv',  # In place of the block's 3x3 convolution.
  'branch',  # On the residual branch, after its last norm, before the addition.
  'block',  # After the block's last ReLU.
  'stage',  # After the last block of a stage.
)
STARTS = ('paper', 'identity')

# Fields of a module by name, each of its own type.
Fields = Mapping[str, Any]
# Output channels of a mechanism that is built only to check its fields.
_FEATURES = 64


@dataclasses.dataclass(frozen=True)
class Placement:
  """One attention module and the places of a network where it acts.

  Attributes:
    where: one of `PLACES`.
    module: class of the module.
    fields: its fields as sorted (name, value) pairs; those that the class takes per stage
      (`attention.protocols.Traits`) hold a tuple with one value per stage of the network.
    stages: the stages where it acts, counted from 1.
    every: it acts on a stage's block i, counted from 0, where `(i + 1) % every == 0`.
    start: 'paper': the mechanism starts as in its paper; 'identity': x + gamma * (module(x) - x),
      gamma starting at 0, so that the network first computes what it computes without the module.
    dtype: compute dtype, for modules that have the field.
  """

  where: str
  module: type[nn.Module]
  fields: tuple[tuple[str, Any], ...]
  stages: tuple[int, ...]
  every: int
  start: str
  dtype: Dtype

  def acts(self, stage: int, block: int) -> bool:
    """Whether it acts in block `block` (from 0) of stage `stage` (from 1); at 'stage' in none."""
    return self.where != 'stage' and stage in self.stages and (block + 1) % self.every == 0

  def make(self, stage: int, **fields: Any) -> nn.Module:
    """Makes the module for a stage inside a compact method, named by its place."""
    return self.module(**self._fields(stage), **fields, name=self._name(stage))

  def check(self) -> None:
    """Makes the module for each stage, so that it raises its errors for impossible fields."""
    shape = {'features': _FEATURES, 'stride': 1} if self.where == 'conv' else {}
    for stage in self.stages:
      self.module(**self._fields(stage), **shape, parent=None)

  def refine(self, network: nn.Module, x: jax.Array, stage: int, *, train: bool) -> jax.Array:
    """Applies the module to a feature map [N, H, W, C], inside a compact method of `network`."""
    module = self.make(stage)
    y = module(x, train=train)
    # Of two factors that are both 0, neither would ever have a gradient.
    if self.start == 'paper' or starts_as_identity(module):
      return y
    gamma = network.param(f'{self._name(stage)}_gamma', nn.initializers.zeros, ())
    return x + gamma.astype(x.dtype) * (y - x)

  def _fields(self, stage: int) -> dict[str, Any]:
    per_stage = traits(self.module).per_stage
    fields = {name: value[stage - 1] if name in per_stage else value for name, value in self.fields}
    if 'dtype' in field_names(self.module):
      fields['dtype'] = self.dtype
    return fields

  def _name(self, stage: int) -> str:
    return f'stage{stage}_stage_attention' if self.where == 'stage' else f'{self.where}_attention'


def at(placements: Iterable[Placement], where: str) -> Placement | None:
  """The first placement at a place, or None."""
  return next((p for p in placements if p.where == where), None)


def refine(
  network: nn.Module,
  placements: Iterable[Placement],
  where: str,
  x: jax.Array,
  stage: int,
  *,
  train: bool,
) -> jax.Array:
  """Applies the mechanism that acts at a place, if there is one, inside a compact method.

  Args:
    network: the block or network whose compact method it is; it holds the parameters.
    placements: the placements that may act here.
    where: one of `PLACES`, not 'conv'.
    x: [N, H, W, C].
    stage: number of the stage, from 1.
    train: whether batch norms use the statistics of the batch instead of the running ones.

  Returns:
    [N, H, W, C]; x itself where nothing acts.
  """
  found = at(placements, where)
  if found is None or stage not in found.stages:
    return x
  return found.refine(network, x, stage, train=train)


def field_names(module: 'type[DataclassInstance]') -> list[str]:
  """The names of a module's own fields, without those that Linen adds."""
  linen = ('parent', 'name')
  return [field.name for field in dataclasses.fields(module) if field.name not in linen]
