"""ResNets: shapes of the blocks, shortcuts, strides, initial scales and dtypes."""

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_shapes import module_paths, output_shapes, variables_of
from quick_jit import jit

from attn_flax import create_model
from attn_flax.models.blocks import Block, PreActivationBlock

BLOCKS = (Block, PreActivationBlock)

# Blocks per stage, and output channels of the first stage's blocks; each stage doubles them.
IMAGENET = {
  'resnet18': ((2, 2, 2, 2), 64),
  'resnet34': ((3, 4, 6, 3), 64),
  'resnet50': ((3, 4, 6, 3), 256),
  'resnet101': ((3, 4, 23, 3), 256),
  'resnet152': ((3, 8, 36, 3), 256),
  'wide_resnet18_1.5': ((2, 2, 2, 2), 96),
  'wide_resnet18_2': ((2, 2, 2, 2), 128),
  'wide_resnet50_2': ((3, 4, 6, 3), 256),
  'resnext50_32x4d': ((3, 4, 6, 3), 256),
}
CIFAR = {
  **{f'resnet{6 * n + 2}': ((n,) * 3, 16) for n in (3, 5, 7, 9, 18)},
  'wrn16_4': ((2, 2, 2), 64),
  'wrn28_10': ((4, 4, 4), 160),
}


@pytest.mark.parametrize(
  ('name', 'stem', 'size'),
  [
    *((name, 'imagenet', (64, 97)) for name in IMAGENET),
    *((name, 'cifar', (32, 21)) for name in CIFAR),
    ('resnet50', 'cifar', (32, 21)),
    ('resnet20', 'imagenet', (64, 97)),
    ('resnet50', 'deep', (64, 97)),
    ('resnet18', 'tiered', (64, 97)),
  ],
)
def test_blocks_return_maps_of_the_right_shape(name, stem, size):
  """Each stage halves the feature map, rounding up; the ImageNet stem divides it by four."""
  shapes = output_shapes(
    create_model(name, stem=stem), size, lambda module: isinstance(module, BLOCKS)
  )
  depths, first = {**IMAGENET, **CIFAR}[name]
  expected = {}
  height, width = (-(-side // (1 if stem == 'cifar' else 4)) for side in size)
  for stage, depth in enumerate(depths, start=1):
    if stage > 1:
      height, width = -(-height // 2), -(-width // 2)
    for block in range(1, depth + 1):
      expected[f'stage{stage}_block{block}'] = (2, height, width, first * 2 ** (stage - 1))
  assert shapes == expected


@pytest.mark.parametrize('name', [*IMAGENET, *CIFAR])
def test_shortcuts_are_projected_only_where_the_shape_changes(name):
  """In the first block of each stage, but not where the stem has the channels of stage 1."""
  depths, first = {**IMAGENET, **CIFAR}[name]
  stages = range(2 if first == (64 if name in IMAGENET else 16) else 1, len(depths) + 1)
  expected = {f'stage{stage}_block1/shortcut_conv' for stage in stages}
  assert module_paths(create_model(name, stem='cifar'), 'shortcut_conv') == expected


@pytest.mark.parametrize(('stride_in', 'strided'), [('3x3', 'conv2'), ('1x1', 'conv1')])
def test_stride_in_names_the_convolution_that_takes_the_stride(stride_in, strided):
  model = create_model('resnet50', stem='cifar', stride_in=stride_in)
  shapes = output_shapes(model, (32, 32), lambda module: isinstance(module, nn.Conv))
  sizes = {name: shapes[f'stage2_block1/{name}'][1] for name in ('conv1', 'conv2', 'conv3')}
  expected = {'conv1': 32, 'conv2': 16, 'conv3': 16} | {strided: 16}
  assert sizes == expected
  assert shapes['stage2_block2/conv1'][1] == shapes['stage3_block1/shortcut_conv'][1] * 2 == 16


@pytest.mark.parametrize(('name', 'last'), [('resnet18', 'norm2'), ('resnet50', 'norm3')])
@pytest.mark.parametrize('zero', [False, True])
def test_zero_init_last_zeroes_the_last_scale_of_each_block_and_nothing_else(zero, name, last):
  model = create_model(name, depths=(1, 2), widths=(4, 8), stem='cifar', zero_init_last=zero)
  initialize = jit(lambda x: model.init(jax.random.key(0), x, train=False))
  params = initialize(jnp.zeros((1, 8, 8, 3)))['params']
  scales = {
    path: value
    for path, value in flax.traverse_util.flatten_dict(params, sep='/').items()
    if path.endswith('/scale')
  }
  assert sum(path.endswith(f'/{last}/scale') for path in scales) == 3
  for path, value in scales.items():
    expected = 0 if zero and path.endswith(f'/{last}/scale') else 1
    np.testing.assert_array_equal(value, np.full(value.shape, expected))


def test_init_returns_parameters_and_batch_statistics_only():
  assert set(variables_of(create_model('resnet20', attention='cbam'))) == {'params', 'batch_stats'}


@pytest.mark.parametrize('attention', [None, 'se', 'eca', 'cbam', 'bam'])
def test_bfloat16_networks_have_float32_parameters_and_logits(attention):
  """Feature maps are bfloat16: attention does not raise them to float32."""
  model = create_model(
    'resnet50', attention=attention, depths=(1, 1, 1, 1), stem='cifar', dtype='bfloat16'
  )
  variables = variables_of(model)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  logits, recorded = jax.eval_shape(
    lambda v, x: model.apply(v, x, train=False, mutable=['intermediates']),
    variables,
    jnp.zeros((2, 32, 32, 3)),
  )
  chex.assert_shape(logits, (2, 1000))
  assert logits.dtype == jnp.float32
  for stage in range(1, 5):
    assert recorded['intermediates'][f'stage{stage}'][0].dtype == jnp.bfloat16
