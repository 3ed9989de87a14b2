"""How a channel gate and a spatial gate act on a map: the one place where gates are combined.

A gate is a module that returns logits: a channel gate [N, 1, 1, C], a spatial gate [N, H, W, 1].
What a mechanism attends with is recorded (`sow`) under one vocabulary, in the collection
`intermediates`: `channel_gate` [N, C], `spatial_gate` [N, H, W], and `gate` [N, H, W, C] where
the two act as one and cannot be told apart. Values lie in 0..1.
"""

import flax.linen as nn
import jax

from attn_flax.errors import UserError, check_choice

Gate = nn.Module
ORDERS = (
  'channel_first',
  'spatial_first',
  'parallel_sum',
  'parallel_product',
  'channel_only',
  'spatial_only',
)


def hidden_channels(channels: int, ratio: int, divisor: int = 1) -> int:
  """Width of a bottleneck: `channels // ratio`, or the nearest multiple of `divisor` above 0.

  Raises:
    UserError: when the ratio leaves no hidden unit.
  """
  if ratio < 1 or ratio > channels:
    raise UserError(
      f'attention ratio={ratio} does not fit {channels} channels: the ratio must lie in '
      f'1..{channels}; lower the ratio or leave out the stages with fewer channels'
    )
  if divisor == 1:
    return channels // ratio
  return max(divisor, int(channels / ratio + divisor / 2) // divisor * divisor)


def compose(
  module: nn.Module,
  x: jax.Array,
  channel: Gate | None = None,
  spatial: Gate | None = None,
  *,
  order: str = 'channel_first',
  residual: bool = False,
  train: bool,
) -> jax.Array:
  """Applies a channel gate, a spatial gate, or both, to a map.

  With c and s their logits and S the sigmoid, `order` is one of
    channel_first:     x1 = x * S(c(x));  y = x1 * S(s(x1))
    spatial_first:     x1 = x * S(s(x));  y = x1 * S(c(x1))
    parallel_sum:      y = x * S(c(x) + s(x))
    parallel_product:  y = x * S(c(x) * s(x))
    channel_only:      y = x * S(c(x))
    spatial_only:      y = x * S(s(x))
  and with `residual` the result is x + y.

  Args:
    module: the mechanism, in whose scope the gates are recorded.
    x: [N, H, W, C].
    channel: module that returns logits [N, 1, 1, C], or None.
    spatial: module that returns logits [N, H, W, 1], or None.
    order: one of `ORDERS`; where one gate is None, the other acts alone.
    residual: whether the input is added.
    train: whether batch statistics are those of the batch.

  Returns:
    [N, H, W, C], of the dtype of `x`.

  Raises:
    UserError: for an unknown order.
  """
  check_choice('attention order', order, ORDERS)
  gates = {'channel': channel, 'spatial': spatial}
  if order.endswith('only'):
    gates = {order.removesuffix('_only'): gates[order.removesuffix('_only')]}
  if channel is not None and spatial is not None and order.startswith('parallel'):
    c, s = channel(x, train=train), spatial(x, train=train)
    gate = nn.sigmoid(c + s if order == 'parallel_sum' else c * s)
    module.sow('intermediates', 'gate', gate)
    y = x * gate
  else:
    y = x
    for kind in reversed(gates) if order == 'spatial_first' else gates:
      if (logits := gates[kind]) is not None:
        gate = nn.sigmoid(logits(y, train=train))
        flat = gate[:, 0, 0] if kind == 'channel' else gate[..., 0]
        module.sow('intermediates', f'{kind}_gate', flat)
        y = y * gate
  return x + y if residual else y
