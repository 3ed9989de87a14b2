"""Where attention acts in MnasNet-A1."""

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_jit import jit

from attn_flax import layers
from attn_flax.attention.aa import AugmentedConv
from attn_flax.costs.count import abstract_variables, count_params, macs
from attn_flax.errors import UserError
from attn_flax.models.mnasnet import MnasNet
from attn_flax.models.placement import PLACES, Placement, field_names

IMAGENET = (224, 224, 3)
SMALL = {'width_multiplier': 0.25, 'depths': (1,) * 7, 'num_classes': 10, 'stem': 'cifar'}


class Double(nn.Module):
  """A refiner that records its input and returns it twice as large."""

  @nn.compact
  def __call__(self, x, *, train):
    self.sow('intermediates', 'seen', x)
    return 2 * x


class Plain(nn.Module):
  """A convolution that records what it is made with."""

  features: int
  stride: int = 1
  kernel: int = 3

  @nn.compact
  def __call__(self, x):
    self.sow('intermediates', 'seen', x)
    return layers.conv(self.features, self.kernel, self.stride, name='conv')(x)


def _place(where, module, stages, every=1, **fields):
  fields = tuple(sorted(fields.items()))
  return Placement(where, module, fields, stages, every, 'paper', jnp.dtype('float32'))


PLAIN = MnasNet(**{**SMALL, 'depths': (1, 2, 1, 1, 1, 1, 1)})
EVERYWHERE = PLAIN.clone(
  attention=(
    _place('conv', Plain, (2, 6)),
    _place('branch', Double, (2, 5)),
    _place('block', Double, (2, 4), every=2),
    _place('stage', Double, (2, 7)),
  )
)


@pytest.fixture(scope='module')
def outputs(randomized):
  """By path, the output of each submodule of `EVERYWHERE` and the input of each probe."""
  variables = randomized(abstract_variables(EVERYWHERE, (16, 24, 3)))
  x = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))

  @jit
  def run(variables, x):
    return EVERYWHERE.apply(
      variables, x, train=False, capture_intermediates=True, mutable=['intermediates']
    )[1]['intermediates']

  return {
    path.removesuffix('/__call__'): value[0]
    for path, value in flax.traverse_util.flatten_dict(run(variables, x), sep='/').items()
  }


def _probes(outputs, where):
  return {path.split('/')[0] for path in outputs if path.endswith(f'{where}_attention/seen')}


def test_every_place_is_supported():
  assert MnasNet.places == PLACES


def test_conv_replaces_the_expansion(outputs):
  blocks = {'stage2_block1': 'stage1', 'stage2_block2': 'stage2_block1', 'stage6_block1': 'stage5'}
  assert _probes(outputs, 'conv') == set(blocks)
  shapes, plain = (
    abstract_variables(model, (16, 24, 3))['params'] for model in (EVERYWHERE, PLAIN)
  )
  for block, source in blocks.items():
    np.testing.assert_array_equal(outputs[f'{block}/conv_attention/seen'], outputs[source])
    assert 'expand_conv' not in shapes[block]
    # Pointwise, like the convolution that it replaces.
    conv = shapes[block]['conv_attention']['conv']
    assert conv['kernel'].shape == plain[block]['expand_conv']['kernel'].shape


def test_branch_acts_after_the_last_norm(outputs):
  blocks = {'stage2_block1': 'stage1', 'stage2_block2': 'stage2_block1', 'stage5_block1': None}
  assert _probes(outputs, 'branch') == set(blocks)
  for block, shortcut in blocks.items():
    branch = outputs[f'{block}/branch_attention/seen']
    np.testing.assert_array_equal(branch, outputs[f'{block}/project_norm'])
    added = 2 * branch + (outputs[shortcut] if shortcut else 0)
    seen = outputs.get(f'{block}/block_attention/seen', outputs[block])
    np.testing.assert_allclose(seen, added, rtol=1e-5, atol=1e-5)


def test_block_acts_after_the_addition(outputs):
  assert _probes(outputs, 'block') == {'stage2_block2'}
  np.testing.assert_array_equal(
    outputs['stage2_block2'], 2 * outputs['stage2_block2/block_attention/seen']
  )


def test_stage_acts_after_the_last_block(outputs):
  assert _probes(outputs, 'stage') == {'stage2_stage_attention', 'stage7_stage_attention'}
  for stage, block in ((2, 'stage2_block2'), (7, 'stage7_block1')):
    seen = outputs[f'stage{stage}_stage_attention/seen']
    np.testing.assert_array_equal(seen, outputs[block])
    np.testing.assert_array_equal(outputs[f'stage{stage}'], 2 * seen)


@pytest.mark.skipif('kernel' not in field_names(AugmentedConv), reason='3x3 convolutions only')
def test_golden_counts_of_the_augmented_form():
  """4 heads, kappa 0.1, upsilon 0.05: 4 % more parameters, 10 % more multiply-adds."""
  stages = tuple(range(1, 8)[MnasNet.conv_stages])
  assert stages == (5, 6, 7)
  fields = {'heads': 4, 'kappa': 0.1, 'upsilon': 0.05, 'pool': (False,) * 7}
  model = MnasNet(attention=(_place('conv', AugmentedConv, stages, **fields),))
  assert count_params(abstract_variables(model, IMAGENET)) == 4_042_486
  assert macs(model, IMAGENET) == (326_481_344, 15_152_368)


def test_a_stage_without_an_expansion_is_refused_by_name():
  with pytest.raises(UserError, match='stage 1 of MnasNet has no exp'):
    abstract_variables(MnasNet(attention=(_place('conv', Plain, (1,)),)), (32, 32, 3))
