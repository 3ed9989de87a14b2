"""Applies a channel part and a spatial part to a feature map, in any order.

A gate is a module that returns logits: a channel gate [N, 1, 1, C], a spatial gate [N, H, W, 1].
A mixer (`returns = 'map'`), such as attention between positions, returns a feature map
[N, H, W, C] that is to be added. The gates of all mechanisms are recorded (`sow`) under the same
names in the collection `intermediates`: `channel_gate` [N, C], `spatial_gate` [N, H, W], and `gate`
[N, H, W, C] where the two are joined before the sigmoid. Values lie in 0..1.
"""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax.attention.protocols import Gate, Mixer, traits
from attn_flax.errors import UserError, check_choice
from attn_flax.layers.types import check_map

ORDERS = (
  'channel_first',
  'spatial_first',
  'parallel_sum',
  'parallel_product',
  'channel_only',
  'spatial_only',
)
ACTIVATIONS = ('sigmoid', 'softmax')

Part = Gate | Mixer


def hidden_channels(channels: int, ratio: int, divisor: int = 1) -> int:
  """Width of a bottleneck: `channels // ratio`.

  With a `divisor` above 1, it is the multiple of it nearest to `channels / ratio`, at least one.

  Raises:
    UserError: for a ratio that leaves no hidden unit.
  """
  if ratio < 1 or ratio > channels:
    raise UserError(
      f'attention ratio={ratio} does not fit {channels} channels: the ratio must lie in '
      f'1..{channels}; lower the ratio, or leave out the stages with too few channels'
    )
  if divisor == 1:
    return channels // ratio
  return max(divisor, int(channels / ratio + divisor / 2) // divisor * divisor)


def compose(
  module: nn.Module,
  x: jax.Array,
  channel: Part | None = None,
  spatial: Part | None = None,
  *,
  order: str = 'channel_first',
  residual: bool = False,
  activation: str = 'sigmoid',
  train: bool,
) -> jax.Array:
  """Applies a channel part, a spatial part, or both, to a feature map.

  With c and s the logits of two gates and S the sigmoid, `order` is one of
    channel_first:     x1 = x * S(c(x));  y = x1 * S(s(x1))
    spatial_first:     x1 = x * S(s(x));  y = x1 * S(c(x1))
    parallel_sum:      y = x * S(c(x) + s(x))
    parallel_product:  y = x * S(c(x) * s(x))
    channel_only:      y = x * S(c(x))
    spatial_only:      y = x * S(s(x))
  and with `residual` the result is x + y. A mixer m takes the step y = x + m(x) instead; in a
  parallel sum it adds m(x) to what the other part makes of x.

  Args:
    module: the mechanism, in whose scope the gates are recorded.
    x: [N, H, W, C].
    channel: a gate with logits [N, 1, 1, C], a mixer, or None.
    spatial: a gate with logits [N, H, W, 1], a mixer, or None.
    order: one of `ORDERS`; where one part is None, the other acts alone.
    residual: whether the input is added.
    activation: 'sigmoid', or 'softmax' over channels or positions, multiplied by their number.
    train: whether batch norms use the statistics of the batch instead of the running ones.

  Returns:
    [N, H, W, C], of the dtype of `x`.

  Raises:
    UserError: for an unknown order or activation, no part at all, or parts that the order cannot
      join.
  """
  check_map(type(module).__name__, x)
  check_choice('attention order', order, ORDERS)
  check_choice('attention activation', activation, ACTIVATIONS)
  parts = {'channel': channel, 'spatial': spatial}
  if order.endswith('only'):
    parts = {order.removesuffix('_only'): parts[order.removesuffix('_only')]}
  present = {kind: part for kind, part in parts.items() if part is not None}
  if not present:
    raise UserError(
      f'{type(module).__name__} with order={order!r} has no part that acts; name a channel or a '
      'spatial gate'
    )
  if len(present) == 2 and order.startswith('parallel'):
    check_joined(order, activation)
    y = _parallel(module, x, present, order, activation, train)
  else:
    y = x
    for kind in reversed(present) if order == 'spatial_first' else present:
      part = present[kind]
      y = (
        y + part(y, train=train)
        if _mixes(part)
        else _gate(module, y, kind, part, activation, train)
      )
  return x + y if residual else y


def check_joined(order: str, activation: str) -> None:
  """Raises `UserError` for softmax gates in a parallel order."""
  if activation == 'softmax' and order.startswith('parallel'):
    raise UserError(
      f'activation={activation!r} needs gates that act one after the other, which '
      f"order={order!r} does not have; take channel_first, spatial_first or activation='sigmoid'"
    )


def _mixes(part: Part) -> bool:
  return traits(type(part)).returns == 'map'


def _gate(
  module: nn.Module, x: jax.Array, kind: str, part: Part, activation: str, train: bool
) -> jax.Array:
  """Multiplies x by the gate that the logits make, and records the gate."""
  logits = part(x, train=train)
  axes = (3,) if kind == 'channel' else (1, 2)
  if activation == 'softmax':
    gate = nn.softmax(logits.astype(jnp.float32), axis=axes)
    scale = math.prod(logits.shape[axis] for axis in axes)
  else:
    gate, scale = nn.sigmoid(logits), 1
  module.sow('intermediates', f'{kind}_gate', gate[:, 0, 0] if kind == 'channel' else gate[..., 0])
  return x * (gate * scale).astype(logits.dtype)


def _parallel(
  module: nn.Module,
  x: jax.Array,
  parts: Mapping[str, Part],
  order: str,
  activation: str,
  train: bool,
) -> jax.Array:
  """Applies both parts to the same input."""
  mixers = [part for part in parts.values() if _mixes(part)]
  gates = {kind: part for kind, part in parts.items() if not _mixes(part)}
  if mixers and order == 'parallel_product':
    raise UserError(
      f'{type(mixers[0]).__name__} returns a feature map to be added, not logits, so no gate can '
      'be multiplied with it; take channel_first, spatial_first or parallel_sum'
    )
  y = x
  if len(gates) == 1:
    ((kind, part),) = gates.items()
    y = _gate(module, x, kind, part, activation, train)
  elif gates:
    logits = [gate(x, train=train) for gate in gates.values()]
    joined = math.prod(logits) if order == 'parallel_product' else sum(logits)
    gate = nn.sigmoid(joined)
    module.sow('intermediates', 'gate', jnp.broadcast_to(gate, x.shape))
    y = x * gate
  return sum((mixer(x, train=train) for mixer in mixers), start=y)
