"""Attention rollout of vision transformers."""

import chex
import numpy as np
import pytest
from attending import H, N, W, images, network, vit

from attn_flax import UserError, attention_maps, explain

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.mark.parametrize(('pool', 'depth'), [('token', 3), ('mean', 2)])
def test_rollout_is_the_product_of_the_blocks(pool, depth, variables_for):
  """Multiplied in the paper's order, with the first block rightmost, of all weights."""
  model, x = vit(pool, depth), images()
  variables = variables_for(model)
  patches = (H // 4) * (W // 4)
  tokens = patches + (pool == 'token')
  maps = attention_maps(model, variables, x, queries=range(tokens))
  assert list(maps) == [f'block{i + 1}/attention/weights' for i in range(depth)]
  product = np.eye(tokens)
  for value in maps.values():
    chex.assert_shape(value, (N, 2, tokens, tokens))
    product = (0.5 * np.eye(tokens) + 0.5 * np.asarray(value, np.float64).mean(1)) @ product
  np.testing.assert_allclose(product.sum(-1), 1, rtol=1e-5)
  row = product[:, 0, 1:] if pool == 'token' else product.mean(1)

  rollout = explain.attention_rollout(model, variables, x)
  chex.assert_shape(rollout, (N, H // 4, W // 4))
  np.testing.assert_allclose(rollout, row.reshape(rollout.shape), rtol=1e-4, atol=1e-7)
  if pool == 'mean':
    np.testing.assert_allclose(rollout.sum((1, 2)), 1, rtol=1e-5)

  received = explain.attention_received(model, variables, x)
  means = [np.asarray(value).mean((1, 2))[:, tokens - patches :] for value in maps.values()]
  for value, mean in zip(received.values(), means, strict=True):
    np.testing.assert_allclose(value, mean.reshape(rollout.shape), rtol=1e-4)
  own = explain.own_map(model, variables, x)
  np.testing.assert_allclose(own, np.mean(means, 0).reshape(rollout.shape), rtol=1e-4)


def test_rollout_of_other_networks_is_refused(variables_for):
  model = network('cbam')
  with pytest.raises(UserError, match='not for ResNet; take grad_cam or own_map'):
    explain.attention_rollout(model, variables_for(model), images())
