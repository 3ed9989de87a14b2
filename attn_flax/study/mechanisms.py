"""What a network attends with, where, and what its own map shows, read off the network."""

import dataclasses

import flax.traverse_util
import jax
import numpy as np

from attn_flax.attention.names import attention_name
from attn_flax.costs import count
from attn_flax.explain import attention_maps, attention_received, own_map
from attn_flax.models.network import Network
from attn_flax.models.placement import Placement
from attn_flax.study.findings import Mechanism, Shares

# The parts of a hybrid, which are listed even where they are the usual ones.
_ALWAYS_LISTED = ('channel', 'spatial')


def mechanisms(model: Network) -> list[Mechanism]:
  """What a network attends with and where, and the fields that are not the usual ones."""
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
  """The fields of a mechanism that differ from its class's."""
  usual = {field.name: field.default for field in dataclasses.fields(placement.module)}
  listed = {name: value for name, value in usual.items() if name in _ALWAYS_LISTED}
  fields = {**listed, **dict(placement.fields)}
  return {
    name: value
    for name, value in fields.items()
    # A field with a value for each stage is usual where each of them is.
    if name in _ALWAYS_LISTED
    or (value != usual[name] and not (isinstance(value, tuple) and set(value) == {usual[name]}))
  }


def own_map_kinds(model: Network, image_shape: tuple[int, ...]) -> tuple[str, ...]:
  """What a network's own map may show, of 'gate' and 'received'; empty where it has none."""
  variables = count.abstract_variables(model, image_shape)
  images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)

  def shapes(function):
    return jax.eval_shape(lambda v, x: function(model, v, x), variables, images)

  if shapes(own_map) is None:
    return ()
  gates = any(not path.endswith('/channel_gate') for path in shapes(attention_maps))
  return ('gate',) * gates + ('received',) * bool(shapes(attention_received))


def augmented_shares(model: Network, image_shape: tuple[int, ...]) -> dict[int, Shares]:
  """The features that kappa and upsilon come to in each stage with augmented convolutions.

  Read off the shapes of the weights, and so after all rounding and minimum sizes.
  """
  params = count.abstract_variables(model, image_shape)['params']
  leaves = flax.traverse_util.flatten_dict(params)
  shapes = {'/'.join(path): leaf.shape for path, leaf in leaves.items()}
  shares = {}
  for path, shape in shapes.items():
    block, found, _ = path.partition('/conv_attention/qkv/kernel')
    if found:
      values = shapes[f'{block}/conv_attention/output/kernel'][-1]
      convolved = shapes.get(f'{block}/conv_attention/conv/kernel', (0,))[-1]
      stage = int(block.removeprefix('stage').partition('_')[0])
      shares[stage] = Shares((shape[-1] - values) // 2, values, values + convolved)
  return shares
