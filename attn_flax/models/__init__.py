"""The networks by name, and the one place where networks and attention meet."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from attn_flax.attention import ATTENTION
from attn_flax.errors import UserError, check_choice
from attn_flax.models.limits import check_numbers
from attn_flax.models.mnasnet import MnasNet
from attn_flax.models.placement import PLACES, STARTS, Placement, field_names
from attn_flax.models.resnet import ResNet
from attn_flax.models.vit import ViT

_basic = functools.partial(ResNet, widths=(64, 128, 256, 512))
_bottleneck = functools.partial(_basic, block='bottleneck')
_DEPTHS_50, _DEPTHS_101 = (3, 4, 6, 3), (3, 4, 23, 3)


def _cifar(depth: int) -> functools.partial:
  """He's CIFAR network of 6n + 2 layers, with projections where his shortcuts pad with zeros."""
  depths = ((depth - 2) // 6,) * 3
  return functools.partial(ResNet, depths=depths, widths=(16, 32, 64), stem='cifar', stem_width=16)


def _wide(depth: int, widen: int) -> functools.partial:
  """Zagoruyko's pre-activation network of 6n + 4 layers."""
  return functools.partial(
    ResNet,
    depths=((depth - 4) // 6,) * 3,
    widths=tuple(widen * width for width in (16, 32, 64)),
    block='preact',
    stem='cifar',
    stem_width=16,
  )


MODELS: dict[str, Callable[..., Any]] = {
  'resnet18': functools.partial(_basic, depths=(2, 2, 2, 2)),
  'resnet34': functools.partial(_basic, depths=(3, 4, 6, 3)),
  # The depths of stand-alone self-attention (Ramachandran et al., section 4.1).
  'resnet26': functools.partial(_bottleneck, depths=(1, 2, 4, 1)),
  'resnet38': functools.partial(_bottleneck, depths=(2, 3, 5, 2)),
  'resnet50': functools.partial(_bottleneck, depths=_DEPTHS_50),
  'resnet101': functools.partial(_bottleneck, depths=_DEPTHS_101),
  'resnet152': functools.partial(_bottleneck, depths=(3, 8, 36, 3)),
  **{f'resnet{depth}': _cifar(depth) for depth in (20, 32, 44, 56, 110)},
  # Wider stages behind a stem of 64 channels (Woo et al., CBAM, table 4).
  'wide_resnet18_1.5': functools.partial(_basic, depths=(2, 2, 2, 2), widths=(96, 192, 384, 768)),
  'wide_resnet18_2': functools.partial(_basic, depths=(2, 2, 2, 2), widths=(128, 256, 512, 1024)),
  # Wider inner convolutions (torchvision).
  'wide_resnet50_2': functools.partial(_bottleneck, depths=_DEPTHS_50, base_width=128),
  'resnext50_32x4d': functools.partial(_bottleneck, depths=_DEPTHS_50, groups=32, base_width=4),
  'resnext101_32x4d': functools.partial(_bottleneck, depths=_DEPTHS_101, groups=32, base_width=4),
  # Zagoruyko and Komodakis; `wrn<depth>_<widen>` names any of them.
  **{f'wrn{depth}_{widen}': _wide(depth, widen) for depth, widen in ((16, 4), (28, 10), (40, 4))},
  **{
    f'mnasnet_a1{suffix}': functools.partial(MnasNet, width_multiplier=multiplier)
    for suffix, multiplier in (('_0.75', 0.75), ('', 1.0), ('_1.25', 1.25), ('_1.4', 1.4))
  },
  'vit_ti16': functools.partial(ViT, patch=16, width=192, depth=12, heads=3, mlp_width=768),
  'vit_s16': functools.partial(ViT, patch=16, width=384, depth=12, heads=6, mlp_width=1536),
  'vit_b16': functools.partial(ViT, patch=16, width=768, depth=12, heads=12, mlp_width=3072),
  # For images of 32x32.
  'vit_tiny32': functools.partial(ViT, patch=4, width=192, depth=6, heads=3, mlp_width=768),
}

# What an entry of the attention mapping says beside the module's own fields.
PLACEMENT_FIELDS = ('name', 'stages', 'every', 'start')
# What the network says to a module that stands in for a convolution.
CONV_FIELDS = ('features', 'stride', 'kernel')


def list_models() -> list[str]:
  """The names that `create_model` knows."""
  return sorted(MODELS)


def list_attention() -> list[str]:
  """The names of the attention mechanisms that `create_model` knows."""
  return sorted(ATTENTION)


def create_model(
  name: str,
  *,
  attention: str | type[nn.Module] | Mapping[str, Mapping[str, Any]] | None = None,
  attention_kwargs: Mapping[str, Any] | None = None,
  **fields: Any,
) -> nn.Module:
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
  model = _network(name)
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


def _network(name: str) -> Any:
  """A network by name, with its own fields."""
  if wide := re.fullmatch(r'wrn(\d+)_(\d+)', name):
    depth, widen = int(wide[1]), int(wide[2])
    if depth < 10 or depth % 6 != 4 or widen < 1:
      raise UserError(
        f'{name!r} names no WideResNet: its depth must be 6n + 4, such as 16, 28 or 40, and its '
        'width at least 1'
      )
    return _wide(depth, widen)()
  check_choice('model', name, MODELS)
  return MODELS[name]()


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
