"""Global pooling: each channel of a feature map becomes one number."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.errors import UserError, check_choice, shown

# [N, H, W, C] -> [N, C]; `lp` is the 2-norm (a sum, not a mean), `lse` the log of the sum of exps.
POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'avg': lambda x: x.mean((1, 2)),
  'max': lambda x: layers.largest(x.reshape(x.shape[0], -1, x.shape[-1]), 1),
  'lp': lambda x: jnp.sqrt(jnp.maximum(jnp.square(x).sum((1, 2)), 1e-12)),
  'lse': lambda x: jax.nn.logsumexp(x, (1, 2)),
}


def check_pools(what: str, pools: tuple[str, ...]) -> None:
  """Raises `UserError` unless `pools` is a tuple or list of one or more names from `POOLS`."""
  if not isinstance(pools, tuple | list):
    names = ', '.join(sorted(POOLS))
    raise UserError(f'{what}={shown(pools)} is impossible; give a tuple of {names}')
  if not pools:
    raise UserError(f'{what}=() is empty; name at least one of {", ".join(sorted(POOLS))}')
  for pool in pools:
    check_choice(what, pool, POOLS)


def describe_channels(x: jax.Array) -> jax.Array:
  """Mean and maximum of each channel: [N, H, W, C] -> [N, C, 2]."""
  return jnp.stack([POOLS['avg'](x), POOLS['max'](x)], axis=-1)
