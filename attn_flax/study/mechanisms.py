"""Describes the attention of a network: its mechanisms, their places and its own map."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import flax.linen as nn
import jax
import numpy as np

from attn_flax.attention.aa import AugmentedConv, augmented_dims
from attn_flax.attention.names import attention_name
from attn_flax.costs import count
from attn_flax.explain import attention_maps, attention_received, own_map
from attn_flax.models.network import Network
from attn_flax.models.placement import Placement
from attn_flax.study.findings import Mechanism, Shares

# The parts of a hybrid, which are listed even where they are the defaults.
_ALWAYS_LISTED = ('channel', 'spatial')


_Shapes = TypeVar('_Shapes')


def mechanisms(model: Network) -> list[Mechanism]:
  """The attention mechanisms of a network with their places and fields, see `Mechanism`."""
  return [
    Mechanism(
      name=attention_name(placement.module),
      where=placement.where,
      stages=placement.stages,
      every=placement.every,
      start=placement.start,
      fields=_unusual(placement),
      attends=bool(np.any(dict(placement.fields).get('upsilon', 1))),
    )
    for placement in model.attention
  ]


def _unusual(placement: Placement) -> dict[str, object]:
  """The fields of a mechanism that differ from the defaults of its class."""
  usual = {field.name: field.default for field in dataclasses.fields(placement.module)}
  listed = {name: value for name, value in usual.items() if name in _ALWAYS_LISTED}
  fields = {**listed, **dict(placement.fields)}
  return {
    name: value
    for name, value in fields.items()
    # A tuple has a value for each stage: it is the default where all of them are.
    if name in _ALWAYS_LISTED
    or (value != usual[name] and not (isinstance(value, tuple) and set(value) == {usual[name]}))
  }


def own_map_kinds(model: Network, image_shape: tuple[int, ...]) -> tuple[str, ...]:
  """What a network's own map may show: 'gate', 'received' or both; () where it has none.

  Args:
    model: the network.
    image_shape: (H, W, C) of its images.
  """
  variables = count.abstract_variables(model, image_shape)
  images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)

  def shapes(function: Callable[..., _Shapes]) -> _Shapes:
    return jax.eval_shape(lambda v, x: function(model, v, x), variables, images)

  if shapes(own_map) is None:
    return ()
  gates = any(not path.endswith('/channel_gate') for path in shapes(attention_maps))
  return ('gate',) * gates + ('received',) * bool(shapes(attention_received))


def augmented_shares(model: Network, image_shape: tuple[int, ...]) -> dict[int, Shares]:
  """Key, value and output dimensions of a network's augmented convolutions, {stage: Shares}.

  Args:
    model: the network.
    image_shape: (H, W, C) of its images.
  """
  shares = {}

  def note(
    call: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    context: nn.module.InterceptorContext,
  ) -> object:
    module = context.module
    if isinstance(module, AugmentedConv) and context.method_name == '__call__':
      keys, values = augmented_dims(
        module.features, module.heads, module.kappa, module.upsilon, module.min_key_dim
      )
      if values:  # Otherwise it is a plain convolution.
        stage = int(module.path[0].removeprefix('stage').partition('_')[0])
        shares[stage] = Shares(keys, values, module.features)
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    count.abstract_variables(model, image_shape)
  return shares
