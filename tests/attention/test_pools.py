"""Global pooling where its values or its gradient are hard to compute."""

import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.attention.pools import POOLS


def test_log_sum_exp_pool_does_not_overflow():
  """For 63 pixels of 1000 each, it is 1000 + log(63)."""
  pool = POOLS['lse'](jnp.full((1, 9, 7, 1), 1000.0))
  np.testing.assert_allclose(pool, 1000 + np.log(63), rtol=1e-6)


def test_lp_pool_has_a_finite_gradient_at_a_map_of_zeros():
  gradient = jax.grad(lambda x: POOLS['lp'](x).sum())(jnp.zeros((1, 9, 7, 2)))
  np.testing.assert_array_equal(gradient, np.zeros((1, 9, 7, 2)))
