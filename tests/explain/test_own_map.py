"""The network's own map: that of the mechanism that acts last."""

import functools

import jax
import numpy as np
import pytest
from attending import FIELDS, N, images, network

from attn_flax import attention_maps, explain

pytestmark = pytest.mark.usefixtures('quick_compilation')


def test_the_own_map_is_the_mean_over_the_blocks_of_the_last_stage(variables_for, explained):
  model = network('cbam', depths=(1, 1, 2))
  maps, _, own = explained(model)
  gates = [maps[f'stage3_block{i}/branch_attention/spatial_gate'] for i in (1, 2)]
  np.testing.assert_allclose(own, np.mean(gates, 0), rtol=1e-6)


def test_a_block_with_another_size_of_map_is_left_out_of_the_mean(explained):
  """Stand-alone attention in a strided block acts on the block's larger input."""
  _, received, own = explained(network('sasa', depths=(1, 1, 2), kwargs=FIELDS['sasa']))
  shapes = [received[f'stage3_block{i}/conv_attention'].shape for i in (1, 2)]
  assert shapes == [(N, 12, 8), (N, 6, 4)]
  np.testing.assert_array_equal(own, received['stage3_block2/conv_attention'])


@pytest.mark.parametrize(
  ('attention', 'last'),
  [
    (
      {'conv': {'name': 'aa', **FIELDS['aa']}, 'branch': {'name': 'cbam', 'ratio': 4}},
      'stage3_block1/branch_attention/spatial_gate',
    ),
    (
      {'conv': {'name': 'aa', **FIELDS['aa']}, 'branch': {'name': 'eca'}},
      'stage3_block1/conv_attention',
    ),
    (
      {'branch': {'name': 'additive', 'ratio': 4}, 'stage': {'name': 'dual'}},
      'stage3_stage_attention/position',
    ),
    (
      {'branch': {'name': 'hybrid', 'spatial': 'position', 'position_ratio': 4}},
      'stage3_block1/branch_attention/spatial',
    ),
    (
      {'stage': {'name': 'bam', 'ratio': 4}, 'block': {'name': 'se', 'ratio': 4}},
      'stage2_stage_attention/gate',
    ),
  ],
)
def test_the_own_map_is_that_of_the_last_of_several_mechanisms(attention, last, variables_for):
  model, x = network(attention), images()

  @jax.jit
  def run(variables):
    maps = explain.attention_maps(model, variables, x)
    return explain.own_map(model, variables, x), {
      **maps,
      **explain.attention_received(model, variables, x),
    }

  own, maps = run(variables_for(model))
  expected = maps[last] if maps[last].ndim == 3 else maps[last].mean(-1)
  np.testing.assert_allclose(own, expected, rtol=1e-5)


@pytest.mark.parametrize(('attention', 'none'), [(None, True), ('eca', True), ('cbam', False)])
def test_whether_there_is_an_own_map_is_known_from_shapes(attention, none, variables_for):
  model = network(attention)
  own = jax.eval_shape(functools.partial(explain.own_map, model), variables_for(model), images())
  assert (own is None) == none
  queries = [0]
  maps = functools.partial(attention_maps, model, queries=queries)
  assert bool(jax.eval_shape(maps, variables_for(model), images())) == (attention is not None)


def test_augmented_convolution_without_values_has_no_weights(variables_for):
  model = network('aa', kwargs={**FIELDS['aa'], 'upsilon': 0.0})
  assert attention_maps(model, variables_for(model), images(), queries=[0]) == {}
  assert explain.own_map(model, variables_for(model), images()) is None
