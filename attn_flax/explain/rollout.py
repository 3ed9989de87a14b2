"""Attention rollout: how much each patch contributes to the logits, through all blocks of a ViT.

Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020,
https://arxiv.org/abs/2005.00928), section 3.
"""

import functools

import jax
import jax.numpy as jnp

from attn_flax.errors import UserError
from attn_flax.explain import recording
from attn_flax.explain.taps import check_network
from attn_flax.layers.types import Model, Variables
from attn_flax.models.vit import ViT


def attention_rollout(model: Model, variables: Variables, images: jax.Array) -> jax.Array:
  """Attention rollout: the product over the blocks of `0.5 I + 0.5 mean over heads of weights`.

  0.5 I stands for the residual connection. The map is the class token's row of the product
  (`pool='token'`), or the mean of all rows (`pool='mean'`). It is computed from the last block to
  the first, as a row times one matrix after the other, with a few queries' weights at a time.

  Args:
    model: a vision transformer.
    variables: its variables.
    images: [N, H, W, 3], normalized.

  Returns:
    [N, h, w] float32, one value per patch; they sum to 1 minus the share of the class token.

  Raises:
    UserError: for a network that is not a vision transformer.
  """
  check_network(model, variables, images)
  if not isinstance(model, ViT):
    raise UserError(
      f'attention rollout is defined for vision transformers (vit_*), not for '
      f'{type(model).__name__}; take grad_cam or own_map'
    )
  return _attention_rollout(model, variables, images)


@functools.partial(jax.jit, static_argnames='model')
def _attention_rollout(model: ViT, variables: Variables, images: jax.Array) -> jax.Array:
  blocks = list(recording.record(model, variables, images).attention.items())
  path, last = blocks[-1]
  row = jnp.full(last.queries, 1 / last.queries)
  if model.pool == 'token':
    row = jnp.zeros(last.queries).at[0].set(1)
  shares = jnp.broadcast_to(row, (len(images), last.queries))
  for _, attention in reversed(blocks):
    shares = 0.5 * shares + 0.5 * recording.pull(attention, shares)
  return recording.as_map(last, path, shares)
