"""Where attention acts in a ResNet, and with what it starts."""

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import pytest
from network_shapes import TINY, module_paths, output_shapes, parameter_paths, variables_of
from own_mechanisms import Pooled
from quick_jit import jit

from attn_flax import create_model
from attn_flax.models.blocks import Block


class Zero(nn.Module):
  """A refiner that sets its branch to 0."""

  @nn.compact
  def __call__(self, x, *, train):
    return 0 * x


class Negate(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return -x


class Shift(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return x + 1


def _activations(model, randomize):
  """Outputs of stages, blocks and the stem's norm in evaluation mode, with random variables."""

  @jit
  def run(variables, x):
    return model.apply(
      variables,
      x,
      train=False,
      capture_intermediates=lambda m, _: isinstance(m, Block) or m.name == 'stem_norm',
      mutable='intermediates',
    )[1]['intermediates']

  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  return run(randomize(variables_of(model)), images)


def test_branch_attention_acts_before_the_addition(randomized):
  """With a branch of 0 only the shortcut is left: stage 1 returns its input."""
  seen = _activations(create_model('resnet20', attention=Zero, **TINY), randomized)
  stem = nn.relu(seen['stem_norm']['__call__'][0])
  np.testing.assert_array_equal(seen['stage1'][0], stem)


def test_block_attention_acts_after_the_last_relu(randomized):
  """The block returns its result, which may be negative."""
  model = create_model('resnet20', attention={'block': {'name': Negate, 'stages': (2,)}}, **TINY)
  seen = _activations(model, randomized)
  negated = seen['stage2_block1']['__call__'][0]
  assert negated.max() <= 0 and negated.min() < 0
  assert seen['stage1_block2']['__call__'][0].min() >= 0


def test_stage_attention_acts_after_the_last_block(randomized):
  model = create_model('resnet20', attention={'stage': {'name': Shift, 'stages': 2}}, **TINY)
  seen = _activations(model, randomized)
  np.testing.assert_array_equal(seen['stage2'][0], seen['stage2_block2']['__call__'][0] + 1)
  np.testing.assert_array_equal(seen['stage1'][0], seen['stage1_block2']['__call__'][0])


@pytest.mark.parametrize(
  ('name', 'replaced', 'channels'), [('resnet18', 'conv1', 32), ('resnet50', 'conv2', 128)]
)
def test_conv_attention_replaces_the_3x3_convolution(name, replaced, channels):
  """It gets its features and its stride, in the given stages only; its default place is `conv`."""
  model = create_model(
    name, attention=Pooled, attention_kwargs={'stages': (2,)}, stem='cifar', **TINY
  )
  blocks = {'stage2_block1', 'stage2_block2'}
  assert module_paths(model, 'conv_attention') == {f'{block}/conv_attention' for block in blocks}
  kernels = {f'stage{s}_block{b}/{replaced}/kernel' for s in (1, 2, 3) for b in (1, 2)}
  assert kernels - parameter_paths(model) == {f'{block}/{replaced}/kernel' for block in blocks}
  shapes = output_shapes(model, (8, 8), lambda module: isinstance(module, (Pooled, Block)))
  assert shapes['stage2_block1/conv_attention'] == (2, 4, 4, 32)
  assert shapes['stage2_block2/conv_attention'] == (2, 4, 4, 32)
  assert shapes['stage2_block2'] == (2, 4, 4, channels)


@pytest.mark.parametrize(
  ('stages', 'every', 'blocks'),
  [
    (None, 1, ['1_1', '1_2', '1_3', '2_1', '2_2', '2_3', '3_1', '3_2', '3_3']),
    (2, 1, ['2_1', '2_2', '2_3']),
    ((1, 3), 2, ['1_2', '3_2']),
    ([3], 3, ['3_3']),
  ],
)
@pytest.mark.parametrize('where', ['branch', 'block'])
def test_stages_and_every_choose_the_blocks(where, stages, every, blocks):
  entry = {'name': 'eca', 'stages': stages, 'every': every}
  expected = {'stage{}_block{}/'.format(*b.split('_')) + f'{where}_attention' for b in blocks}
  assert module_paths(create_model('resnet20', attention={where: entry}), '_attention') == expected


@pytest.mark.parametrize(('name', 'stages'), [('resnet18', (1, 2, 3)), ('resnet20', (1, 2))])
def test_bam_acts_after_all_stages_but_the_last_by_default(name, stages):
  model = create_model(name, attention='bam', stem='cifar')
  assert module_paths(model, '_attention') == {f'stage{s}_stage_attention' for s in stages}


@pytest.mark.parametrize('attention', ['se', 'eca', 'cbam'])
def test_branch_mechanisms_act_in_every_block_by_default(attention):
  model = create_model('resnet18', attention=attention, stem='cifar')
  expected = {f'stage{s}_block{b}/branch_attention' for s in (1, 2, 3, 4) for b in (1, 2)}
  assert module_paths(model, '_attention') == expected


def test_two_places_hold_two_mechanisms():
  entries = {'branch': {'name': 'eca', 'stages': (1,)}, 'stage': {'name': 'bam', 'ratio': 4}}
  model = create_model('resnet20', attention=entries, **TINY)
  expected = {f'stage1_block{b}/branch_attention' for b in (1, 2)}
  assert module_paths(model, '_attention') == expected | {
    f'stage{s}_stage_attention' for s in (1, 2)
  }
  reduce = variables_of(model)['params']['stage2_stage_attention']['channel']['reduce']['kernel']
  assert reduce.shape == (32, 8)


@pytest.mark.parametrize(
  ('kernel_size', 'taps'),
  [
    (None, (3, 5, 5, 5)),  # the rule: 64, 128, 256 and 512 channels
    (7, (7, 7, 7, 7)),
    ((7,), (7, 7, 7, 7)),
    ((3, 5, 7, 9), (3, 5, 7, 9)),
    ([3, 5, 7, 9], (3, 5, 7, 9)),
  ],
)
def test_eca_takes_one_kernel_size_or_one_per_stage(kernel_size, taps):
  model = create_model(
    'resnet18', attention='eca', attention_kwargs={'kernel_size': kernel_size}, stem='cifar'
  )
  params = variables_of(model)['params']
  for stage, size in enumerate(taps, start=1):
    for block in (1, 2):
      attention = params[f'stage{stage}_block{block}']['branch_attention']
      assert attention['channel']['conv']['kernel'].shape == (size, 1, 1)


@pytest.mark.parametrize('where', ['branch', 'block', 'stage'])
def test_an_identity_start_begins_without_the_mechanism(randomized, where):
  """gamma = 0 leaves the plain network, gamma = 1 is the paper's start."""
  small = {'depths': (1, 1), 'widths': (8, 16), 'num_classes': 5}
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)

  def model(**entry):
    return create_model('resnet20', attention={where: {'name': 'se', 'ratio': 4, **entry}}, **small)

  def logits(model, flat):
    nested = {
      collection: flax.traverse_util.unflatten_dict(values, sep='/')
      for collection, values in flat.items()
    }
    return jit(lambda v, x: model.apply(v, x, train=False))(nested, images)

  variables = randomized(variables_of(model(start='identity')))
  flat = {key: flax.traverse_util.flatten_dict(value, sep='/') for key, value in variables.items()}
  gammas = [path for path in flat['params'] if path.endswith('_attention_gamma')]
  assert len(gammas) == 2

  def scaled(gamma):
    return {**flat, 'params': {**flat['params'], **dict.fromkeys(gammas, jnp.full((), gamma))}}

  faded, full = (logits(model(start='identity'), scaled(gamma)) for gamma in (0.0, 1.0))
  plain = {path: value for path, value in flat['params'].items() if '_attention' not in path}
  expected = logits(create_model('resnet20', **small), {**flat, 'params': plain})
  np.testing.assert_allclose(faded, expected, rtol=1e-5, atol=1e-6)
  usual = {path: value for path, value in flat['params'].items() if path not in gammas}
  expected = logits(model(), {**flat, 'params': usual})
  np.testing.assert_allclose(full, expected, rtol=1e-5, atol=1e-5)
  assert np.abs(full - faded).max() > 1e-3
