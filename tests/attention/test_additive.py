"""The gates of additive and of dot-product attention against float64 loops."""

import pytest
from against_oracle import C, assert_oracle
from part_oracles import additive_channel, additive_spatial, dot_product_channel

from attn_flax.attention import additive, dot_product


def test_additive_spatial_gate(randomized):
  def expect(o, x):
    assert o.get('key/kernel').shape == (C, 4)
    return additive_spatial(o, x)[..., None]

  assert_oracle(randomized, additive.AdditiveSpatial(6), expect)


@pytest.mark.parametrize(
  ('gate', 'oracle'),
  [
    (additive.AdditiveChannel(3), additive_channel),
    (dot_product.DotProductChannel(3), dot_product_channel),
  ],
  ids=['additive', 'dot_product'],
)
def test_channel_gates_between_channels(randomized, gate, oracle):
  def expect(o, x):
    assert o.get('channel').shape == (C, 3)
    return oracle(o, x)[:, None, None, :]

  assert_oracle(randomized, gate, expect)
