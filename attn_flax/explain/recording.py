"""What the attention in a network computed: its gates, and its weights on request.

Mechanisms record their gates in `intermediates`. Weights between positions are never recorded:
every module with a method `weights(x, queries)` is noted with its input, and the weights of the
queries that are asked for are computed afterwards.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax import lax

from attn_flax.attention.protocols import attends, traits
from attn_flax.errors import UserError
from attn_flax.explain.networks import evaluation_mode, named_stages, network_state
from attn_flax.explain.taps import check_network
from attn_flax.layers.types import Model, Variables

# The names under which `attention.compose` records gates.
GATES = ('channel_gate', 'spatial_gate', 'gate')
# Queries whose weights are computed at a time.
_BLOCK_QUERIES = 64
# By which factors the feature map of a module's keys may be smaller than its input.
_KEY_STEPS = (1, 2, 4, 8)

Path = tuple[str, ...]


class Attention(NamedTuple):
  """Attention between positions, as one module of a network computed it.

  Attributes:
    weights: queries [Q] int32 -> [N, heads, Q, K] float32.
    queries: number of queries; those of a module that replaces a convolution are counted over the
      feature map of its keys, those of any other module over its input.
    keys: number of keys K.
    query_grid: (height, width) of the queries' feature map, without a class token, which is query
      0 where there is one; None where the queries form no known feature map.
    grid: the same for the keys.
  """

  weights: Callable[[jax.Array], jax.Array]
  queries: int
  keys: int
  query_grid: tuple[int, int] | None
  grid: tuple[int, int] | None


class Recording(NamedTuple):
  """What one pass recorded, each by the path of its module.

  Attributes:
    gates: `channel_gate` [N, C], `spatial_gate` [N, H, W], `gate` [N, H, W, C]; the last part of
      the path is the gate's name.
    attention: the attention of each module that attends between positions.
    order: the paths of all modules, in the order in which their calls ended.
  """

  gates: dict[Path, jax.Array]
  attention: dict[Path, Attention]
  order: list[Path]


def record(model: Model, variables: Variables, images: jax.Array) -> Recording:
  """Runs a network in evaluation mode and notes its gates and its attention.

  Raises:
    UserError: for arguments that are not a network, its variables and images.
  """
  check_network(model, variables, images)
  seen: dict[Path, tuple[nn.Module, Variables, jax.Array]] = {}
  order: list[Path] = []

  def note(
    call: Callable[..., object],
    args: Sequence[jax.Array],
    kwargs: Mapping[str, jax.Array],
    context: nn.module.InterceptorContext,
  ) -> object:
    y = call(*args, **kwargs)
    if context.method_name == '__call__':
      path = context.module.path
      order.append(path)
      if attends(context.module):
        seen[path] = (*context.module.unbind(), (*args, *kwargs.values())[0])
    return y

  with nn.intercept_methods(note):
    _, state = model.apply(
      network_state(variables), images, **evaluation_mode(model), mutable=['intermediates']
    )
  recorded = flax.traverse_util.flatten_dict(dict(state.get('intermediates', {})))
  stages = named_stages(state)
  patches = recorded[stages[max(stages)]][-1].shape[1:3] if stages else None
  attention = {
    path: _attention(module, state, x, patches) for path, (module, state, x) in seen.items()
  }
  return Recording(
    {p: v[-1].astype(jnp.float32) for p, v in recorded.items() if p[-1] in GATES},
    {path: a for path, a in attention.items() if a is not None},
    order,
  )


def _attention(
  module: nn.Module, variables: Variables, x: jax.Array, patches: tuple[int, int] | None
) -> Attention | None:
  """Attention of a module on its input x, a feature map [N, H, W, C] or tokens [N, T, C]."""
  variables = network_state(variables)

  def weights(queries: jax.Array) -> jax.Array:
    return cast(jax.Array, module.apply(variables, x, queries, method='weights'))

  shape = jax.eval_shape(weights, jax.ShapeDtypeStruct((1,), jnp.int32))
  if shape is None:  # It does not attend, such as an augmented convolution with upsilon=0.
    return None
  keys = shape.shape[-1]
  if x.ndim == 3:
    spare = (0, 1)  # A class token or none.
    fits = (patches is not None and n - math.prod(patches) in spare for n in (x.shape[1], keys))
    grids = (patches if fit else None for fit in fits)
    return Attention(weights, x.shape[1], keys, *grids)
  height, width = x.shape[1:3]
  rounded_up = [(-(-height // step), -(-width // step)) for step in _KEY_STEPS]
  rounded_down = [(height // step, width // step) for step in _KEY_STEPS]
  grid = next((g for g in rounded_up + rounded_down if g[0] * g[1] == keys), None)
  if traits(type(module)).where == 'conv':
    return Attention(weights, keys, keys, grid, grid)
  return Attention(weights, height * width, keys, (height, width), grid)


def pull(attention: Attention, shares: jax.Array) -> jax.Array:
  """The attention that keys receive from queries with shares [N, queries]: [N, K].

  It is the mean over the heads of `shares @ weights`. A few queries are computed at a time, so that
  the whole matrix is never in memory.
  """
  blocks = -(-attention.queries // _BLOCK_QUERIES)
  spare = blocks * _BLOCK_QUERIES - attention.queries
  shares = jnp.pad(shares, ((0, 0), (0, spare)))  # Queries that fill up the last block count 0.
  positions = jnp.minimum(jnp.arange(shares.shape[1]), attention.queries - 1)

  def add(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    positions, shares = block
    return total + jnp.einsum('nq,nhqk->nk', shares, attention.weights(positions)), None

  inputs = (
    positions.reshape(blocks, _BLOCK_QUERIES),
    jnp.moveaxis(shares.reshape(len(shares), blocks, _BLOCK_QUERIES), 1, 0),
  )
  heads = jax.eval_shape(attention.weights, jax.ShapeDtypeStruct((1,), jnp.int32)).shape[1]
  total, _ = lax.scan(add, jnp.zeros((len(shares), attention.keys), jnp.float32), inputs)
  return total / heads


def query_at(attention: Attention, path: Path, place: tuple[float, float]) -> int:
  """Number of the query whose pixel holds a place, (y, x) as shares of height and width.

  Raises:
    UserError: where the feature map of the queries is unknown.
  """
  if attention.query_grid is None:
    raise UserError(
      f'the {attention.queries} queries of {"/".join(path)} form no known feature map; give '
      'their numbers to attention_maps instead'
    )
  height, width = attention.query_grid
  y, x = (min(int(share * n), n - 1) for share, n in zip(place, (height, width), strict=True))
  return attention.queries - height * width + y * width + x


def as_map(attention: Attention, path: Path, received: jax.Array) -> jax.Array:
  """Values of the keys [N, K] as a map [N, h, w], without the class token.

  Raises:
    UserError: where the feature map of the keys is unknown.
  """
  if attention.grid is None:
    raise UserError(
      f'the {attention.keys} keys of {"/".join(path)} form no known feature map; take keys on the '
      f'map of its input, or on one {", ".join(map(str, _KEY_STEPS[1:]))} times smaller'
    )
  height, width = attention.grid
  return received[:, attention.keys - height * width :].reshape(-1, height, width)


def received(attention: Attention, path: Path, images: int) -> jax.Array:
  """Mean weight that each key receives, over heads and queries, [N, h, w], for `images` = N."""
  shares = jnp.full((images, attention.queries), 1 / attention.queries, jnp.float32)
  return as_map(attention, path, pull(attention, shares))
