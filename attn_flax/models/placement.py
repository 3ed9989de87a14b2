"""Where in a network an attention module acts: data, so that networks name no mechanism."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import flax.linen as nn

# In the order that the forward pass meets them.
PLACES = {
  'conv': "in place of the block's 3x3 convolution",
  'branch': 'on the residual branch, after its last norm, before the addition',
  'block': "after the block's last ReLU",
  'stage': 'after the last block of a stage',
}


@dataclasses.dataclass(frozen=True)
class Placement:
  """One attention module and the places of a network where it acts.

  Attributes:
    where: one of `PLACES`.
    module: class of the module.
    fields: its fields as sorted (name, value) pairs; a field in the class's `per_stage` holds a
      tuple with one value per stage of the network.
    stages: the stages where it acts, counted from 1.
    every: it acts on a stage's block i, counted from 0, where `(i + 1) % every == 0`.
    dtype: compute dtype, for modules that have the field.
  """

  where: str
  module: type[nn.Module]
  fields: tuple[tuple[str, Any], ...]
  stages: tuple[int, ...]
  every: int
  dtype: Any

  def acts(self, stage: int, block: int) -> bool:
    """Whether it acts in block `block` (from 0) of stage `stage` (from 1)."""
    return stage in self.stages and (block + 1) % self.every == 0

  def make(self, stage: int, **fields: Any) -> nn.Module:
    """The module for a stage, to be called inside a compact method; it is named by its place."""
    per_stage = getattr(self.module, 'per_stage', ())
    for name, value in self.fields:
      fields[name] = value[stage - 1] if name in per_stage else value
    if 'dtype' in field_names(self.module):
      fields['dtype'] = self.dtype
    prefix = f'stage{stage}_' if self.where == 'stage' else ''
    return self.module(**fields, name=f'{prefix}{self.where}_attention')


def field_names(module: type[nn.Module]) -> list[str]:
  """The names of a module's own fields."""
  linen = ('parent', 'name')
  return [field.name for field in dataclasses.fields(module) if field.name not in linen]  # type: ignore[arg-type]


def at(placements: Iterable[Placement], where: str) -> Placement | None:
  """The placement for a place, or None."""
  return next((p for p in placements if p.where == where), None)
