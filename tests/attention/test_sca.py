"""Spatial and channel-wise attention against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from against_oracle import N, assert_oracle, feature_maps, variable_shapes
from part_oracles import additive_channel, additive_spatial, gate

from attn_flax.attention import compose
from attn_flax.attention.sca import SCA


@pytest.mark.parametrize('activation', compose.ACTIVATIONS)
@pytest.mark.parametrize('order', ['channel_first', 'spatial_first', 'channel_only'])
def test_sca(randomized, order, activation):
  """Each softmax is multiplied by the number of its entries, so that equal gates are 1."""

  def expect(o, x):
    def by_channel(x):
      return gate(o, x, 'channel', additive_channel(o, x, 'channel/'), activation)

    def by_pixel(x):
      return gate(o, x, 'spatial', additive_spatial(o, x, 'spatial/'), activation)

    if order == 'channel_only':
      return by_channel(x)
    return by_pixel(by_channel(x)) if order == 'channel_first' else by_channel(by_pixel(x))

  recorded = assert_oracle(randomized, SCA(order, activation, 6, 3), expect)
  if activation == 'softmax':
    for values in recorded.values():
      np.testing.assert_allclose(values.reshape(N, -1).sum(-1), 1, rtol=1e-6)


def test_softmax_gates_of_half_precision_sum_to_one(randomized):
  """They are computed in float32; bfloat16 would be off by 1e-3 and more."""
  module, x = SCA(ratio=6, dtype=jnp.bfloat16), jnp.asarray(feature_maps(), jnp.bfloat16)
  variables = randomized(variable_shapes(module, x))
  run = jax.jit(lambda v, x: module.apply(v, x, train=False, mutable=['intermediates']))
  y, mutated = run(variables, x)
  assert y.dtype == jnp.bfloat16
  for (values,) in mutated['intermediates'].values():
    total = np.asarray(values, np.float64).reshape(N, -1).sum(-1)
    np.testing.assert_allclose(total, 1, rtol=1e-6)
