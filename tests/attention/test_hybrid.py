"""Hybrids of all parts in all orders: values against float64 loops, shapes, and refusals."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from against_oracle import C, H, N, W, assert_oracle, feature_maps, variable_shapes
from oracles import channel_conv, channel_mlp, sigmoid, spatial_conv, spatial_dilated
from part_oracles import (
  additive_channel,
  additive_spatial,
  channels,
  dot_product_channel,
  gate,
  position,
)

from attn_flax.attention import compose, hybrid
from attn_flax.errors import UserError

# Oracles of the parts, functions of (oracle, map) under the names that the module has for them.
CHANNEL = {
  'se': channel_mlp,
  'eca': lambda o, x: channel_conv(o, x, circular=False),
  'cbam': lambda o, x: channel_mlp(o, x, pools=('avg', 'max')),
  'bam': lambda o, x: channel_mlp(o, x, norm=True),
  'dual': lambda o, x: channels(o, x, name='channel/'),
  'dot_product': lambda o, x: dot_product_channel(o, x, 'channel/'),
  'additive': lambda o, x: additive_channel(o, x, 'channel/'),
}
SPATIAL = {
  'cbam': spatial_conv,
  'bam': lambda o, x: spatial_dilated(o, x, depth=2, dilation=4, end_norm=False),
  'additive': lambda o, x: additive_spatial(o, x, 'spatial/'),
  'position': lambda o, x: position(o, x, 'spatial/')[0],
}
# Parts that return a map to be added.
MIXERS = {('channel', 'dual'), ('spatial', 'position')}


def hybrid_oracle(o, x, channel, spatial, order, residual=False, activation='sigmoid'):
  """The formulas of `compose`, written out."""
  c, s = CHANNEL.get(channel), SPATIAL.get(spatial)
  c_mixes, s_mixes = ('channel', channel) in MIXERS, ('spatial', spatial) in MIXERS

  def by_channel(x):
    return x + c(o, x) if c_mixes else gate(o, x, 'channel', c(o, x), activation)

  def by_pixel(x):
    return x + s(o, x) if s_mixes else gate(o, x, 'spatial', s(o, x), activation)

  if order == 'channel_only' or s is None:
    y = by_channel(x)
  elif order == 'spatial_only' or c is None:
    y = by_pixel(x)
  elif order == 'channel_first':
    y = by_pixel(by_channel(x))
  elif order == 'spatial_first':
    y = by_channel(by_pixel(x))
  elif c_mixes and s_mixes:
    y = x + c(o, x) + s(o, x)
  elif c_mixes:
    y = by_pixel(x) + c(o, x)
  elif s_mixes:
    y = by_channel(x) + s(o, x)
  else:
    logits = c(o, x)[:, None, None, :], s(o, x)[:, :, :, None]
    o.gates['gate'] = sigmoid(sum(logits) if order == 'parallel_sum' else logits[0] * logits[1])
    y = x * o.gates['gate']
  return x + y if residual else y


# Channel part, spatial part, order, residual, activation: every part, order and kind of pair.
HYBRIDS = [
  ('eca', 'cbam', 'channel_first', False, 'sigmoid'),
  ('se', 'bam', 'parallel_sum', True, 'sigmoid'),
  ('cbam', 'additive', 'parallel_product', False, 'sigmoid'),
  ('bam', 'cbam', 'spatial_first', True, 'sigmoid'),
  ('additive', 'cbam', 'channel_only', True, 'sigmoid'),
  ('se', 'additive', 'spatial_only', False, 'softmax'),
  ('dot_product', 'position', 'channel_first', False, 'softmax'),
  ('dot_product', 'position', 'parallel_sum', False, 'sigmoid'),
  ('dual', 'additive', 'parallel_sum', True, 'sigmoid'),
  ('dual', 'position', 'parallel_sum', False, 'sigmoid'),
  ('dual', 'position', 'spatial_first', True, 'sigmoid'),
  ('dual', 'bam', 'channel_first', False, 'sigmoid'),
  ('none', 'position', 'parallel_product', True, 'sigmoid'),
  ('eca', 'none', 'parallel_sum', False, 'softmax'),
]


@pytest.mark.parametrize('case', HYBRIDS, ids='-'.join(['%s'] * 5).__mod__)
def test_hybrid(randomized, case):
  channel, spatial, order, residual, activation = case

  def expect(o, x):
    return hybrid_oracle(o, x, channel, spatial, order, residual, activation)

  module = hybrid.Hybrid(channel, spatial, order, residual, activation, ratio=6, hidden=3)
  assert_oracle(randomized, module, expect, 0.5 * feature_maps())


def test_the_oracles_cover_every_part_and_order_of_hybrids():
  assert set(CHANNEL) == set(hybrid.CHANNEL) and set(SPATIAL) == set(hybrid.SPATIAL)
  covered = [{case[i] for case in HYBRIDS} - {'none'} for i in range(3)]
  assert covered == [set(CHANNEL), set(SPATIAL), set(compose.ORDERS)]


GATE_SHAPES = {'channel_gate': (N, C), 'spatial_gate': (N, H, W), 'gate': (N, H, W, C)}
PARALLEL = ('parallel_sum', 'parallel_product')


def _acting(channel, spatial, order):
  """The parts that act, by kind."""
  parts = {'channel': channel, 'spatial': spatial}
  if order.endswith('_only'):
    parts = {order.removesuffix('_only'): parts[order.removesuffix('_only')]}
  return {kind: part for kind, part in parts.items() if part != 'none'}


def _vocabulary(acting, order):
  """The names of the gates that a hybrid records: mixers have none, parallel gates share one."""
  kinds = [kind for kind, part in acting.items() if (kind, part) not in MIXERS]
  return {'gate'} if len(kinds) == 2 and order in PARALLEL else {f'{kind}_gate' for kind in kinds}


def _refusal(acting, order, activation):
  """Why a hybrid is refused, or None."""
  if not acting:
    return 'leave no part that acts'
  if len(acting) == 1 or order not in PARALLEL:
    return None
  if activation == 'softmax':
    return 'gates that act one after the other'
  if order == 'parallel_product' and MIXERS & set(acting.items()):
    return 'returns a feature map to be added'
  return None


@pytest.mark.parametrize('spatial', [*SPATIAL, 'none'])
@pytest.mark.parametrize('channel', [*CHANNEL, 'none'])
def test_every_hybrid_runs_or_is_refused_with_the_reason(channel, spatial):
  """Shape, dtype, variables and records are right in every order, with and without residual."""
  x = jax.ShapeDtypeStruct((N, H, W, C), jnp.float32)
  for order, activation in itertools.product(compose.ORDERS, compose.ACTIVATIONS):
    acting = _acting(channel, spatial, order)
    reason = _refusal(acting, order, activation)
    if activation == 'softmax' and reason is None:
      continue  # The same program but for one function; values are compared above.
    for residual in (False, True):
      if reason is not None:
        with pytest.raises(UserError, match=reason):
          hybrid.Hybrid(channel, spatial, order, residual, activation, ratio=6)
        continue
      module = hybrid.Hybrid(channel, spatial, order, residual, activation, ratio=6)

      def run(x, module=module):
        mutable = ['params', 'batch_stats', 'intermediates']
        return module.init_with_output(jax.random.key(0), x, train=False, mutable=mutable)

      y, variables = jax.eval_shape(run, x)
      assert (y.shape, y.dtype) == (x.shape, x.dtype)
      assert set(variables['params']) == set(acting)
      recorded = variables.get('intermediates', {})
      names = _vocabulary(acting, order)
      assert {name: values[0].shape for name, values in recorded.items()} == {
        name: GATE_SHAPES[name] for name in names
      }


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    ({'channel': 'ecaa'}, "did you mean 'eca'"),
    ({'spatial': 'cbm'}, "did you mean 'cbam'"),
    ({'order': 'both'}, 'allowed: channel_first'),
    ({'activation': 'tanh'}, 'allowed: sigmoid, softmax'),
  ],
  ids=str,
)
def test_unknown_parts_of_a_hybrid_are_refused_with_the_allowed_ones(fields, text):
  with pytest.raises(UserError, match=text):
    variable_shapes(hybrid.Hybrid(**fields), feature_maps())
