"""What explanations must know about a network: any Linen module that turns images into logits.

Networks of the library say it in their fields (`models.network.Network`). For a network of your own
it is found out as follows:

* Evaluation mode: an argument of `__call__` with the name `train`, `training`, `is_training`,
  `deterministic` or `use_running_average` is set; there may be none.
* Classes: the number of logits, [N, classes].
* Stages: the feature maps that it names with `attn_flax.layers.tap(self, 'stage1', x)`, also inside
  its submodules. Without any, only the last feature map is known: of the submodules that return a
  feature map [N, H, W, C] of more than one pixel, the outermost are taken, and of these the one
  whose call ends last.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax

from attn_flax.errors import MOST_UNITS, UserError, check_range, shown
from attn_flax.layers.types import Model, Variables
from attn_flax.models.network import Network, Output

_MODES = {
  'train': False,
  'training': False,
  'is_training': False,
  'deterministic': True,
  'use_running_average': True,
}
_TAP = "name one with attn_flax.layers.tap(self, 'stage1', x) in the network's __call__"


def evaluation_mode(model: Model) -> dict[str, bool]:
  """The keyword arguments with which a network is called to be evaluated.

  Raises:
    UserError: for a network that needs other arguments beside the images.
  """
  _, _, *others = inspect.signature(type(model).__call__).parameters.values()  # self, images
  needed = [
    one.name
    for one in others
    if one.default is one.empty
    and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    and one.name not in _MODES
  ]
  if needed:
    raise UserError(
      f'{type(model).__name__} needs {", ".join(needed)} beside the images; wrap it in a module '
      'whose __call__(self, images, *, train) returns logits'
    )
  return {one.name: _MODES[one.name] for one in others if one.name in _MODES}


def network_state(variables: Variables) -> Variables:
  """The variables without the records of an earlier call, to which a call would append."""
  return {k: v for k, v in variables.items() if k not in ('intermediates', 'perturbations')}


def evaluate(model: Model, variables: Variables, images: jax.Array) -> jax.Array:
  """Logits [N, num_classes], in evaluation mode."""
  return model.apply(network_state(variables), images, **evaluation_mode(model))


def count_classes(model: Model, variables: Variables, images: jax.Array) -> int:
  """Number of a network's classes.

  Raises:
    UserError: for a network that does not return logits [N, classes].
  """
  if isinstance(model, Network):
    if model.num_classes is None:
      raise UserError('a network without a head has no logits to explain; give it num_classes')
    return model.num_classes
  found = jax.eval_shape(lambda v, x: evaluate(model, v, x), variables, images)
  if not isinstance(found, jax.ShapeDtypeStruct) or found.shape[:-1] != images.shape[:1]:
    is_array = isinstance(found, jax.ShapeDtypeStruct)
    what = f'an array of shape {found.shape}' if is_array else shown(type(found))
    raise UserError(
      f'{type(model).__name__} returns {what}, but an explanation needs logits [N, classes]; wrap '
      'it in a module that returns only these'
    )
  return found.shape[-1]


def check_stage(model: Model, stage: object) -> None:
  """Raises `UserError` unless `stage` may be a stage of the network, or None for the last."""
  if stage is not None:
    most = model.num_stages if isinstance(model, Network) else MOST_UNITS
    check_range('stage', stage, 1, most, whole=True)


class TargetLayer(NamedTuple):
  """The layer whose feature map is read, found by one of two ways.

  Attributes:
    tap: the path in `intermediates` under which the network names the map; () where it does not.
    call: how many calls of submodules end before the call that returns it; -1 where `tap` holds.
  """

  tap: tuple[str, ...] = ()
  call: int = -1


def find_layer(
  model: Model, variables: Variables, images: jax.Array, stage: int | None
) -> TargetLayer:
  """The layer that returns a stage's feature map; that of the last stage where `stage` is None.

  Raises:
    UserError: for a stage that the network does not name, or a network without feature maps.
  """
  if isinstance(model, Network):
    return TargetLayer((f'stage{stage or model.num_stages}',))
  depths: list[tuple[int, int]] = []  # Of submodules that return feature maps, with their numbers.
  ended = 0

  def note(
    call: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    context: nn.module.InterceptorContext,
  ) -> object:
    nonlocal ended
    y = call(*args, **kwargs)
    if context.method_name == '__call__':
      depth = len(context.module.path)
      if depth and isinstance(y, jax.Array) and y.ndim == 4 and y.shape[1] * y.shape[2] > 1:
        depths.append((depth, ended))
      ended += 1
    return y

  def run(v: Variables, x: jax.Array) -> object:
    with nn.intercept_methods(note):
      return model.apply(network_state(v), x, **evaluation_mode(model), mutable=['intermediates'])[
        1
      ]

  taps = named_stages(jax.eval_shape(run, variables, images))
  name = type(model).__name__
  if taps:
    number = max(taps) if stage is None else stage
    if number not in taps:
      known = ', '.join(map(str, sorted(taps)))
      raise UserError(f'stage={stage} is not named by {name}; choose one of {known}')
    return TargetLayer(taps[number])
  if stage is not None:
    raise UserError(f'{name} names no stages, so stage={stage} is unknown; leave it out or {_TAP}')
  if not depths:
    raise UserError(f'no submodule of {name} returns a feature map [N, H, W, C]; {_TAP}')
  # The outermost ones: the network does not go on with what a block computes inside.
  least = min(depth for depth, _ in depths)
  return TargetLayer(call=[number for depth, number in depths if depth == least][-1])


def named_stages(state: Variables) -> dict[int, tuple[str, ...]]:
  """The paths of the feature maps that a network names, by the number of the stage."""
  taps = {}
  for path in flax.traverse_util.flatten_dict(dict(state.get('intermediates', {}))):
    if found := re.fullmatch(r'stage(\d+)', path[-1]):
      taps[int(found[1])] = path
  return taps


def read(
  model: Model,
  variables: Variables,
  images: jax.Array,
  layer: TargetLayer,
  added: jax.Array | None = None,
) -> tuple[Output, jax.Array]:
  """Runs a network in evaluation mode.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    layer: the layer whose feature map is read.
    added: an array that is added to this feature map, of its shape; None for nothing.

  Returns:
    The output of the network, and the feature map.
  """
  state, mode = network_state(variables), evaluation_mode(model)
  if layer.tap:
    if added is not None:
      state = {
        **state,
        'perturbations': flax.traverse_util.unflatten_dict({layer.tap: added}),
      }
    y, recorded = model.apply(state, images, **mode, mutable=['intermediates'])
    return y, flax.traverse_util.flatten_dict(recorded['intermediates'])[layer.tap][0]
  found: list[jax.Array] = []
  ended = 0

  def watch(
    call: Callable[..., jax.Array],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    context: nn.module.InterceptorContext,
  ) -> jax.Array:
    nonlocal ended
    y = call(*args, **kwargs)
    if context.method_name == '__call__':
      if ended == layer.call:
        y = y if added is None else y + added
        found.append(y)
      ended += 1
    return y

  with nn.intercept_methods(watch):
    y = model.apply(state, images, **mode)
  return y, found[0]
