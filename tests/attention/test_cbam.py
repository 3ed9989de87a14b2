"""CBAM against a float64 oracle, in every order and with every pool."""

import jax
import numpy as np
import pytest
from against_oracle import assert_oracle, batch, both_modes
from oracles import by_both, by_channel, by_pixel, channel_mlp, spatial_conv
from quick_jit import jit

from attn_flax.attention import cbam, compose
from attn_flax.attention.pools import POOLS
from attn_flax.errors import UserError

RATIO = 6  # 4 hidden units


@both_modes
@pytest.mark.parametrize(
  'fields',
  [
    *({'order': order} for order in compose.ORDERS),
    *({'pools': (pool,)} for pool in POOLS),
    {'pools': ('avg', 'max', 'lp', 'lse'), 'bias': False},
    {'kernel_size': 3, 'zero_init_spatial': False},
  ],
  ids=str,
)
def test_cbam(randomized, fields, train):
  order, pools = fields.get('order', 'channel_first'), fields.get('pools', ('avg', 'max'))

  def expect(o, x):
    if order == 'channel_first':
      x = by_channel(o, x, channel_mlp(o, x, pools=pools))
      return by_pixel(o, x, spatial_conv(o, x))
    if order == 'spatial_first':
      x = by_pixel(o, x, spatial_conv(o, x))
      return by_channel(o, x, channel_mlp(o, x, pools=pools))
    if order == 'channel_only':
      return by_channel(o, x, channel_mlp(o, x, pools=pools))
    if order == 'spatial_only':
      return by_pixel(o, x, spatial_conv(o, x))
    channel = channel_mlp(o, x, pools=pools)[:, None, None, :]
    spatial = spatial_conv(o, x)[:, :, :, None]
    return by_both(o, x, channel + spatial if order == 'parallel_sum' else channel * spatial)

  assert_oracle(randomized, cbam.CBAM(RATIO, **fields), expect, batch(), train=train)


@both_modes
def test_zero_init_starts_cbams_spatial_gate_at_one_half_everywhere(train):
  x = batch()
  for zero_init in (True, False):
    module = cbam.CBAM(RATIO, zero_init_spatial=zero_init)
    variables = jit(lambda x, m=module: m.init(jax.random.key(0), x, train=False))(x)
    run = jit(
      lambda v, x, m=module: m.apply(v, x, train=train, mutable=['batch_stats', 'intermediates'])[1]
    )
    gate = np.asarray(run(variables, x)['intermediates']['spatial_gate'][0])
    assert (gate == 0.5).all() == zero_init


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    ({'order': 'channelfirst'}, "did you mean 'channel_first'"),
    ({'pools': ('mean',)}, 'avg, lp, lse, max'),
  ],
  ids=['order', 'pool'],
)
def test_unknown_options_are_refused_with_the_allowed_ones(fields, text):
  with pytest.raises(UserError, match=text):
    cbam.CBAM(RATIO, **fields)
