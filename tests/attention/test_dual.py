"""Dual attention, and each of its two branches, against float64 loops."""

import jax
import numpy as np
import pytest
from against_oracle import C, assert_oracle, feature_maps, variable_shapes
from part_oracles import channels, position

from attn_flax.attention import dual
from attn_flax.errors import UserError


def test_position_attention(randomized):
  def expect(o, x):
    assert o.get('query/kernel').shape == (1, 1, C, 4)
    return position(o, x)

  assert_oracle(randomized, dual.PositionAttention(6), expect, queries=np.array([34, 2, 0, 2]))


@pytest.mark.parametrize('energy', dual.ENERGIES)
def test_channel_attention(randomized, energy):
  """The released code gives unlike channels more weight, the paper like ones."""

  def expect(o, x):
    return channels(o, x, energy)

  assert_oracle(randomized, dual.ChannelAttention(energy), expect, 0.5 * feature_maps())


@pytest.mark.parametrize('energy', dual.ENERGIES)
def test_dual(randomized, energy):
  def expect(o, x):
    return x + position(o, x, 'position/')[0] + channels(o, x, energy, 'channel/')

  assert_oracle(randomized, dual.Dual(6, energy), expect, 0.5 * feature_maps())


def test_dual_starts_as_the_identity(randomized):
  """Exactly so for any other weights, as both gains start at 0."""
  x, module = feature_maps(), dual.Dual()
  variables = randomized(variable_shapes(module, x))

  @jax.jit
  def run(variables, x):
    initial = module.init(jax.random.key(0), x, train=False)['params']
    started = {
      part: {**variables['params'][part], 'gamma': initial[part]['gamma']}
      for part in ('position', 'channel')
    }
    return module.apply({'params': started}, x, train=False)

  np.testing.assert_array_equal(run(variables, x), x)


def test_unknown_energy_is_refused_with_the_allowed_ones():
  with pytest.raises(UserError, match='allowed: paper, released'):
    variable_shapes(dual.Dual(energy='max'), feature_maps())
