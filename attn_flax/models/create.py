"""Networks with attention at their places: where the two meet."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from attn_flax.attention import ATTENTION
from attn_flax.errors import UserError, check_choice
from attn_flax.models.limits import check_numbers
from attn_flax.models.network import Network
from attn_flax.models.placement import PLACES, STARTS, Placement, field_names
from attn_flax.models.resnet import ResNet
from attn_flax.models.zoo import find_network

# What an entry of the attention mapping says beside the module's own fields.
PLACEMENT_FIELDS = ('name', 'stages', 'every', 'start')
# What the network says to a module that stands in for a convolution.
CONV_FIELDS = ('features', 'stride', 'kernel')


def list_attention() -> list[str]:
  """The names of the attention mechanisms that `create_model` knows."""
  return sorted(ATTENTION)


def create_model(
  name: str,
  *,
  attention: str | type[nn.Module] | Mapping[str, Mapping[str, Any]] | None = None,
  attention_kwargs: Mapping[str, Any] | None = None,
  **fields: Any,
) -> Network:
  """A network with attention at its usual place, or at the places given.

  Example:
    >>> model = create_model('resnet50', attention='cbam', num_classes=1000)
    >>> model = create_model('resnet20', attention={'branch': {'name': 'se', 'every': 2}})

  Args:
    name: one of `list_models()`.
    attention: one of `list_attention()` or a module class of your own, at its default place; or a
      mapping from places (conv, branch, block, stage) to entries with `name` (or a class),
      `stages` (from 1; None for the mechanism's default), `every`, `start` ('paper' or 'identity',
      from where the network computes what it did without) and the module's own fields.
    attention_kwargs: fields of the module, and `stages`, `every` and `start`, where `attention` is
      a name or a class.
    **fields: fields of the network, such as `num_classes`, `stem`, `stride_in`, `dtype`.

  Returns:
    A Linen module: `model.init(key, images, train=False)` makes `{'params', 'batch_stats'}` and
    `model.apply(variables, images, train=False)` returns logits [N, num_classes] float32.

  Raises:
    UserError: for an unknown name or field, a stage outside the network, or a mechanism at a place
      where it cannot act.
  """
  model = find_network(name)
  allowed = [field for field in field_names(type(model)) if field != 'attention']
  for field in fields:
    check_choice(f'field of {name}', field, allowed)
  fields = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
  check_numbers(name, fields)
  model = model.clone(**fields)
  if isinstance(model, ResNet):
    model.check()
  if attention is None:
    if attention_kwargs:
      raise UserError('attention_kwargs need an attention; name one')
    return model
  if isinstance(attention, Mapping):
    if attention_kwargs:
      raise UserError('a mapping of places holds its own fields; leave attention_kwargs out')
    entries = {place: dict(entry) for place, entry in attention.items()}
  else:
    where = getattr(_module_class(attention), 'where', 'branch')
    entries = {where: {'name': attention, **(attention_kwargs or {})}}
  return add_attention(model, entries)


def add_attention(model: Any, entries: Mapping[str, Mapping[str, Any]]) -> Any:
  """A copy of a network with attention at the places of a mapping, see `create_model`."""
  check_choice('dtype', model.dtype, ('float32', 'bfloat16'))
  dtype = jnp.dtype(model.dtype)
  placements = [_placement(where, dict(entry), model, dtype) for where, entry in entries.items()]
  return model.clone(attention=tuple(placements))


def _module_class(name: str | type[nn.Module]) -> type[nn.Module]:
  if isinstance(name, str):
    check_choice('attention', name, ATTENTION)
    return ATTENTION[name]
  if not isinstance(name, type):
    raise UserError(
      f'attention must be a name, a module class or a mapping of places, not {type(name).__name__}'
    )
  return name


def _placement(where: str, entry: dict[str, Any], model: Any, dtype: Any) -> Placement:
  """Checks one entry of the attention mapping and fills in what it leaves open."""
  check_choice('attention place', where, PLACES)
  if entry.get('name') is None:
    raise UserError(
      f'the attention at {where!r} has no name; allowed: {", ".join(list_attention())}'
    )
  module = _module_class(entry['name'])
  label = entry['name'] if isinstance(entry['name'], str) else module.__name__
  replaces = getattr(module, 'where', 'branch') == 'conv'
  if replaces != (where == 'conv'):
    kind = 'replaces a convolution' if replaces else 'refines a map'
    places = 'conv' if replaces else ', '.join(p for p in PLACES if p != 'conv')
    raise UserError(f'{label} {kind}, so it cannot act at {where!r}; allowed: {places}')

  if where not in model.places:
    raise UserError(
      f'{type(model).__name__} takes no attention at {where!r}; allowed: '
      f'{", ".join(model.places) or "none, it is made of attention"}'
    )
  start = entry.get('start', 'paper')
  check_choice('start', start, STARTS)
  if replaces and start == 'identity':
    raise UserError(
      f'{label} replaces a convolution, so no start of it computes what the network computed '
      "before; take start='paper'"
    )

  if replaces and getattr(model, 'groups', 1) > 1:
    raise UserError(
      f'{label} has no groups, so it cannot replace a convolution of {model.groups} groups; take '
      'another network, or a mechanism that refines a map'
    )

  num_stages = model.num_stages
  stages = entry.get('stages')
  numbers = range(1, num_stages + 1)
  if stages is None:
    usual = getattr(module, 'default_stages', slice(None))
    # A network may know better where its convolutions can be replaced.
    stages = numbers[getattr(model, 'conv_stages', usual) if replaces else usual]
  stages = tuple(stages) if not isinstance(stages, int) else (stages,)
  if not stages or not set(stages) <= set(numbers):
    raise UserError(
      f'{label} asks for stages {stages}, but the network has stages 1..{num_stages}; name some of '
      'these, or none to take the default'
    )
  usual_every: int = getattr(module, 'default_every', 1)
  every: int = usual_every if entry.get('every') is None else entry['every']
  deepest = max(model.depths[stage - 1] for stage in stages)
  if where == 'stage' and every != 1:
    raise UserError(
      f'{label} every={every} counts blocks, but acts once behind a stage; leave it out'
    )
  if not 1 <= every <= deepest:
    raise UserError(
      f'{label} every={every} meets no block: its stages have {deepest} at most; choose 1 (every '
      f'block) to {deepest}'
    )

  given = ('dtype', *(CONV_FIELDS if replaces else ()))
  allowed = [f for f in field_names(module) if f not in given]
  per_stage = getattr(module, 'per_stage', ())
  fields = {}
  for field, value in entry.items():
    if field in PLACEMENT_FIELDS:
      continue
    check_choice(f'field of {label}', field, allowed)
    if isinstance(value, list):
      value = tuple(value)
    fields[field] = _one_per_stage(label, field, value, num_stages) if field in per_stage else value
  if module in ATTENTION.values():
    check_numbers(label, fields)
  defaults = {f.name: f.default for f in dataclasses.fields(module)}
  for field in per_stage:
    fields.setdefault(field, (defaults[field],) * num_stages)
  return Placement(where, module, tuple(sorted(fields.items())), stages, every, start, dtype)


def _one_per_stage(label: str, field: str, value: Any, num_stages: int) -> tuple:
  values = value if isinstance(value, tuple) else (value,)
  if len(values) not in (1, num_stages):
    raise UserError(
      f'{label} {field}={value} has {len(values)} values for {num_stages} stages; give one, or one '
      'per stage'
    )
  return values * num_stages if len(values) == 1 else values
