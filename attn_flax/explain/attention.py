"""What attention mechanisms compute: gates, weights between positions, and maps made of them.

That a gate or a weight is large does not prove that the class depends on it: Jain and Wallace,
"Attention is not Explanation" (NAACL 2019, https://arxiv.org/abs/1902.10186). Compare them with the
maps of `cam` and `occlusion`.
"""

import functools
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.errors import UserError, check_choice, check_pair, check_range
from attn_flax.explain import recording
from attn_flax.explain.recording import Path
from attn_flax.explain.taps import as_array, check_network
from attn_flax.layers.types import Model, Variables

Queries = Sequence[int] | np.ndarray | jax.Array


def attention_maps(
  model: Model,
  variables: Variables,
  images: jax.Array,
  *,
  queries: Queries | Mapping[str, Queries] | None = None,
) -> dict[str, jax.Array]:
  """Every gate in a network, and the weights of given queries of its attention between positions.

  The gate of your own mechanism is shown if it is recorded under one of the names below, in the
  shape there: `self.sow('intermediates', 'channel_gate', gate[:, 0, 0])`.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    queries: numbers of the query positions, counted row by row over the feature map of a module's
      queries: its input, or, for a module that replaces a convolution, the feature map of its keys.
      A class token is number 0, and the patches follow. The same positions are taken in every
      module, so they must exist in the smallest feature map. A mapping from paths of modules to
      positions takes these modules only.

  Returns:
    Arrays by path, such as 'stage3_block2/branch_attention/channel_gate': `channel_gate` [N, C],
    `spatial_gate` [N, H, W], `gate` [N, H, W, C], in 0..1; and with queries
    '<path of the module>/weights' [N, heads, Q, keys]. All are float32.

  Raises:
    UserError: for queries outside a module's feature map, or an unknown path.
  """
  check_network(model, variables, images)
  asked = {} if queries is None else _asked(model, variables, images, queries)
  return _maps(model, variables, images, asked)


@functools.partial(jax.jit, static_argnames='model')
def _maps(
  model: Model, variables: Variables, images: jax.Array, asked: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  found = recording.record(model, variables, images)
  maps = {'/'.join(path): gate for path, gate in found.gates.items()}
  for path, attention in found.attention.items():
    name = '/'.join(path)
    if name in asked:
      maps[f'{name}/weights'] = attention.weights(asked[name])
  return maps


@functools.partial(jax.jit, static_argnames='model')
def _all_queries(model: Model, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
  """The numbers of all queries of each module; only their shapes are used."""
  found = recording.record(model, variables, images).attention
  return {'/'.join(path): jnp.arange(attention.queries) for path, attention in found.items()}


def _asked(
  model: Model,
  variables: Variables,
  images: jax.Array,
  queries: Queries | Mapping[str, Queries],
) -> dict[str, jax.Array]:
  """The queries of each module, checked."""
  everyone = jax.eval_shape(functools.partial(_all_queries, model), variables, images)
  if not isinstance(queries, Mapping):
    queries = dict.fromkeys(everyone, queries)
  asked = {}
  for path, positions in queries.items():
    check_choice('attention between positions', path, everyone)
    array = as_array('queries', positions)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.integer):
      raise UserError(
        f'queries of shape {array.shape} and type {array.dtype} are not positions; give '
        'whole numbers [Q], each row * width + column'
      )
    if not isinstance(array, jax.core.Tracer):
      count = len(everyone[path])
      wrong = [int(position) for position in np.asarray(array) if not 0 <= position < count]
      if wrong:
        raise UserError(
          f'query {wrong[0]} lies outside the feature map of {path}; allowed: 0 to {count - 1}, or '
          'queries={path: positions} for modules with a larger one'
        )
    asked[path] = jnp.asarray(array, jnp.int32)
  return asked


def attention_received(
  model: Model, variables: Variables, images: jax.Array
) -> dict[str, jax.Array]:
  """Mean weight that each position receives, over heads and all queries.

  A map of softmax attention sums to 1. A class token counts as a query but has no pixel as a key,
  so that the map of a vision transformer sums to the share that the patches receive. Where keys are
  subsampled, the map has their size. Stand-alone attention is local: its map shows which pixels
  receive more weight than others in the same windows. The weights of a few queries are computed at
  a time, so that memory does not grow with their number.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.

  Returns:
    [N, h, w] float32 by the module's path; empty where no module attends between positions.

  Raises:
    UserError: for a module of your own whose keys form no known feature map.
  """
  check_network(model, variables, images)
  return _attention_received(model, variables, images)


@functools.partial(jax.jit, static_argnames='model')
def _attention_received(
  model: Model, variables: Variables, images: jax.Array
) -> dict[str, jax.Array]:
  found = recording.record(model, variables, images).attention
  return {
    '/'.join(path): recording.received(attention, path, len(images))
    for path, attention in found.items()
  }


def attention_from(
  model: Model, variables: Variables, images: jax.Array, query: tuple[float, float]
) -> dict[str, jax.Array]:
  """How much one place of the images attends to every other, averaged over heads.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    query: (y, x) of the query, as shares of height and width in 0..1.

  Returns:
    [N, h, w] float32 by the module's path, in the size of its keys' feature map; empty where no
    module attends between positions.

  Raises:
    UserError: for a place outside the image, or a module of your own whose queries or keys form no
      known feature map.
  """
  check_network(model, variables, images)
  y, x = check_pair('query', query)
  for i, share in enumerate((y, x)):
    check_range(f'query[{i}]', share, 0, 1)
  return _attention_from(model, variables, images, (y, x))


@functools.partial(jax.jit, static_argnames=('model', 'query'))
def _attention_from(
  model: Model, variables: Variables, images: jax.Array, query: tuple[float, float]
) -> dict[str, jax.Array]:
  maps = {}
  for path, attention in recording.record(model, variables, images).attention.items():
    weights = attention.weights(jnp.array([recording.query_at(attention, path, query)]))
    maps['/'.join(path)] = recording.as_map(attention, path, weights[:, :, 0].mean(1))
  return maps


def own_map(model: Model, variables: Variables, images: jax.Array) -> jax.Array | None:
  """The network's own spatial attention as one map, or None where it has none.

  It is the map of the mechanism that acts last: its spatial gate, its joint gate averaged over
  channels, or the attention received (see `attention_received`), whichever it has. It is averaged
  over the blocks of the last stage where the mechanism acts; all blocks of a vision transformer are
  one stage. A block whose map has another size than that of the last block is left out, such as
  stand-alone attention with a stride. Mechanisms with channel gates alone have no such map; this
  depends on the network alone, so that it is known while a program is traced.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.

  Returns:
    [N, h, w] float32, at least 0 for gates and softmax attention, not normalized; or None.

  Raises:
    UserError: for a module of your own whose keys form no known feature map.
  """
  check_network(model, variables, images)
  return _own_map(model, variables, images)


@functools.partial(jax.jit, static_argnames='model')
def _own_map(model: Model, variables: Variables, images: jax.Array) -> jax.Array | None:
  found = recording.record(model, variables, images)
  kinds = {}
  for path in found.order:
    if (*path, 'gate') in found.gates:
      kinds[path] = 'gate'
    elif (*path, 'spatial_gate') in found.gates:
      kinds[path] = 'spatial_gate'
    elif path in found.attention:
      kinds[path] = 'weights'
  if not kinds:
    return None

  def of(path: Path) -> jax.Array:
    if kinds[path] == 'weights':
      return recording.received(found.attention[path], path, len(images))
    gate = found.gates[*path, kinds[path]]
    return gate.mean(-1) if gate.ndim == 4 else gate

  *_, last = kinds
  maps = [of(path) for path in kinds if _mechanism(path, kinds) == _mechanism(last, kinds)]
  return jnp.stack([m for m in maps if m.shape == maps[-1].shape]).mean(0)


def _mechanism(path: Path, kinds: Mapping[Path, str]) -> tuple:
  """What is equal in the blocks of a stage: stage, place in the block and kind of map."""
  stage = re.match(r'stage\d+', path[0]) if path else None
  return (stage and stage[0], path[1:], kinds[path])
