"""Makes networks by name, and puts attention modules at their places."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from attn_flax.attention.names import find_attention, list_attention
from attn_flax.attention.protocols import Traits, traits
from attn_flax.errors import UserError, check_choice, check_type, shown
from attn_flax.models.network import Network, dtype_name
from attn_flax.models.placement import PLACES, STARTS, Fields, Placement, field_names
from attn_flax.models.zoo import find_network

# The keys of an entry of the attention mapping beside the module's own fields.
PLACEMENT_FIELDS = ('name', 'stages', 'every', 'start')
# The fields that the network sets in a module that replaces a convolution.
CONV_FIELDS = ('features', 'stride', 'kernel')

Mechanism = str | type[nn.Module]
AnyNetwork = TypeVar('AnyNetwork', bound=Network)


def create_model(
  name: str,
  *,
  attention: Mechanism | Mapping[str, Fields] | None = None,
  attention_kwargs: Fields | None = None,
  **fields: Any,
) -> Network:
  """Makes a network, with attention at the mechanism's default place or at the places given.

  Example:
    >>> model = create_model('resnet50', attention='cbam', num_classes=1000)
    >>> model = create_model('resnet20', attention={'branch': {'name': 'se', 'every': 2}})
    >>> backbone = create_model('resnet18', num_classes=None)

  A mechanism of your own is a Flax (Linen) module that is called `module(x, train=train)` and
  returns a feature map of the shape of x; with the class attribute `where = 'conv'` it replaces the
  blocks' 3x3 convolutions instead, see `attn_flax.attention.protocols`. Give its class, or, as in a
  config file, 'module:Class':

    >>> model = create_model('resnet20', attention='my_module:MyGate')

  Args:
    name: one of `list_models()`.
    attention: one of `list_attention()`, 'module:Class' or a module class, at its default place; or
      a mapping from places (conv, branch, block, stage) to entries with `name` (any of these),
      `stages` (from 1; None for the mechanism's default), `every` (2: every second block), `start`
      ('paper', or 'identity', so that the network first computes what it computes without the
      mechanism) and the module's own fields.
    attention_kwargs: fields of the module, and `stages`, `every` and `start`, where `attention` is
      a name or a class.
    **fields: fields of the network, such as `num_classes`, `stem`, `stride_in`, `dtype`.

  Returns:
    A Linen module: `model.init(key, images, train=False)` makes `{'params', 'batch_stats'}` and
    `model.apply(variables, images, train=False)` returns logits [N, num_classes] float32; with
    `num_classes=None` the network has no head and returns the feature maps of its stages,
    `{'stage1': [N, H, W, C], ...}`, in the compute dtype.

  Raises:
    UserError: for an unknown name or field, an impossible value, a stage outside the network, or a
      mechanism at a place where it cannot act.
  """
  model = find_network(name)
  allowed = [field for field in field_names(type(model)) if field != 'attention']
  for field in fields:
    check_choice(f'field of {name}', field, allowed)
  if 'dtype' in fields:
    fields['dtype'] = dtype_name(fields['dtype'])
  model = model.clone(**{field: _hashable(value) for field, value in fields.items()})
  model.check()
  entries = _entries(attention, {} if attention_kwargs is None else attention_kwargs)
  return add_attention(model, entries) if entries else model


def add_attention(model: AnyNetwork, entries: Mapping[str, Fields]) -> AnyNetwork:
  """A copy of a network with attention at the places of a mapping, see `create_model`.

  Raises:
    UserError: for an entry that `create_model` refuses.
  """
  model.check()
  placements = [_placement(model, where, entry) for where, entry in entries.items()]
  return model.clone(attention=tuple(placements))


def _entries(attention: Mechanism | Mapping[str, Fields] | None, kwargs: Fields) -> dict:
  """The attention of a network as a mapping from places to entries."""
  if isinstance(attention, Mapping):
    if kwargs:
      raise UserError(
        'attention is a mapping of places, which holds the fields; leave attention_kwargs out'
      )
    return dict(attention)
  check_type('attention_kwargs', kwargs, Mapping, 'fields by name, such as {"ratio": 4}')
  if attention is None:
    if kwargs:
      raise UserError('attention_kwargs need an attention; name a mechanism')
    return {}
  return {traits(_module_class(attention)).where: {'name': attention, **kwargs}}


def _module_class(name: Mechanism) -> type[nn.Module]:
  if isinstance(name, str):
    return find_attention(name)
  if not isinstance(name, type) or not issubclass(name, nn.Module):
    raise UserError(
      'attention must be a name, a module class or a mapping of places, not '
      f'{getattr(name, "__name__", type(name).__name__)}'
    )
  return name


def _placement(model: Network, where: str, entry: Fields) -> Placement:
  """An entry of the attention mapping, checked and with the defaults filled in."""
  check_choice('attention place', where, PLACES)
  check_type(f'the attention at {where!r}', entry, Mapping, 'its fields by name, {"name": "se"}')
  if entry.get('name') is None:
    raise UserError(
      f'the attention at {where!r} has no name; allowed: {", ".join(list_attention())}'
    )
  module = _module_class(entry['name'])
  label = entry['name'] if isinstance(entry['name'], str) else module.__name__
  usual = traits(module)

  _check_place(model, label, usual, where)
  start = entry.get('start', 'paper')
  _check_start(label, usual, start)
  stages = _stages(model, label, usual, entry.get('stages'))
  every = usual.every if entry.get('every') is None else _hashable(entry['every'])
  _check_every(model, label, where, stages, every)
  own = {name: value for name, value in entry.items() if name not in PLACEMENT_FIELDS}
  fields = _module_fields(label, module, own, model.num_stages)

  placement = Placement(
    where, module, tuple(sorted(fields.items())), stages, every, start, jnp.dtype(model.dtype)
  )
  try:
    placement.check()
  except UserError as error:
    raise UserError(f'{label}: {error}') from error
  return placement


def _check_place(model: Network, label: str, usual: Traits, where: str) -> None:
  """Raises `UserError` unless mechanism and network both allow attention at the place."""
  replaces = usual.where == 'conv'
  if replaces != (where == 'conv'):
    kind = 'replaces a convolution' if replaces else 'refines a feature map'
    places = 'conv' if replaces else ', '.join(place for place in PLACES if place != 'conv')
    raise UserError(
      f'the attention {label} {kind}, so it cannot act at {where!r}; allowed: {places}'
    )
  if where not in model.places:
    raise UserError(
      f'{type(model).__name__} takes no attention at {where!r}; allowed: '
      f'{", ".join(model.places) or "none, it is made of attention"}'
    )
  if replaces and model.groups > 1:
    raise UserError(
      f'{label} has no groups, so it cannot replace a convolution of {model.groups} groups; take '
      'another network, or a mechanism that refines a feature map'
    )


def _check_start(label: str, usual: Traits, start: str) -> None:
  check_choice('start', start, STARTS)
  if usual.where == 'conv' and start == 'identity':
    raise UserError(
      f'{label} replaces a convolution, so the network cannot start with what it computes without '
      "it; take start='paper'"
    )


def _stages(
  model: Network, label: str, usual: Traits, asked: int | Sequence[int] | np.ndarray | None
) -> tuple[int, ...]:
  """The stages where a mechanism acts, from 1."""
  numbers = range(1, model.num_stages + 1)
  if asked is None:
    # Where convolutions are replaced, a default of the network comes before that of the mechanism.
    own = model.conv_stages if usual.where == 'conv' else None
    asked = tuple(numbers[usual.stages if own is None else own])
  given = _hashable(asked)
  stages = given if isinstance(given, tuple) else (given,)
  if not all(type(stage) is int and stage in numbers for stage in stages) or not stages:
    raise UserError(
      f'{label} asks for stages {shown(stages)}, but the network has stages '
      f'1..{model.num_stages}; name some of these, or leave them out to take the default'
    )
  return stages


def _check_every(
  model: Network, label: str, where: str, stages: tuple[int, ...], every: int
) -> None:
  """Raises `UserError` unless the mechanism acts in at least one block."""
  if where == 'stage' and every != 1:
    raise UserError(
      f'{label} every={shown(every)} counts blocks, but at {where!r} it acts once; leave every out'
    )
  deepest = max(model.depths[stage - 1] for stage in stages)
  if type(every) is not int or every not in range(1, deepest + 1):
    choice = (
      f'a whole number from 1 (every block) to {deepest}' if deepest > 1 else '1 (every block)'
    )
    raise UserError(
      f'{label} every={shown(every)} meets no block: the deepest of its stages has depth '
      f'{deepest}; choose {choice}'
    )


def _module_fields(
  label: str, module: type[nn.Module], own: Fields, num_stages: int
) -> dict[str, Any]:
  """The fields of a module in an entry; those of `per_stage` get one value per stage."""
  usual = traits(module)
  given = ('dtype', *(CONV_FIELDS if usual.where == 'conv' else ()))
  known = {
    field.name: field
    for field in dataclasses.fields(module)
    if field.name in field_names(module) and field.name not in given
  }
  for name in own:
    check_choice(f'field of {label}', name, known)
  for name, field in known.items():
    unset = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    if unset and name not in own:
      raise UserError(f'{label} needs its field {name!r}; set it beside the name')
  fields = {name: _hashable(value) for name, value in own.items()}
  for name in usual.per_stage:
    value = fields.get(name, known[name].default)
    fields[name] = _one_per_stage(label, name, value, num_stages)
  return fields


def _one_per_stage(label: str, field: str, value: object, num_stages: int) -> tuple:
  values = value if isinstance(value, tuple) else (value,)
  if len(values) not in (1, num_stages):
    raise UserError(
      f'{label} {field}={value} has {len(values)} values for {num_stages} stages; give one value, '
      'or one per stage'
    )
  return values * num_stages if len(values) == 1 else values


def _hashable(value: Any) -> Any:
  """A list, a range or an array as a tuple, a NumPy number as Python's: fields must be hashable."""
  if isinstance(value, np.ndarray | np.generic):
    value = value.tolist()
  return tuple(map(_hashable, value)) if isinstance(value, list | tuple | range) else value
