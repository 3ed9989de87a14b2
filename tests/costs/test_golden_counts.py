"""Golden parameter counts and multiply-adds of every network and every mechanism.

Published numbers are checked as printed. Where no paper gives an exact number, it is derived here
layer by layer, without the library.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from attn_flax import create_model, list_attention, list_models
from attn_flax.attention import ATTENTION
from attn_flax.costs import count as cost
from attn_flax.costs.count import count_macs, count_params

IMAGENET = (224, 224, 3)
CIFAR = (32, 32, 3)

# Parameters, 1000 classes: as torchvision publishes them
# (https://docs.pytorch.org/vision/stable/models.html). Multiply-adds at 224x224 with the stride in
# the 3x3 convolution ("v1.5", torchvision) and in the first 1x1 ("v1", He et al.); basic blocks
# have no such choice. Rounded, the v1 column is the GFLOPs column of Table 4 of Woo et al., "CBAM"
# (https://arxiv.org/abs/1807.06521), which has all but ResNet-152 and the wide ResNet-50.
IMAGENET_MODELS = {
  'resnet18': (11_689_512, 1_814_073_344, 1_814_073_344),
  # The paper prints 13.7M and 19.6M (Table 1 of Ramachandran et al.).
  'resnet26': (13_696_552, 2_342_256_640, 2_111_045_632),
  'resnet38': (19_626_792, 3_215_720_448, 2_984_509_440),
  'resnet34': (21_797_672, 3_663_761_408, 3_663_761_408),
  'resnet50': (25_557_032, 4_089_184_256, 3_857_973_248),
  'resnet101': (44_549_160, 7_801_405_440, 7_570_194_432),
  'resnet152': (60_192_808, 11_513_626_624, 11_282_415_616),
  'wide_resnet18_1.5': (25_875_816, 3_866_327_040, 3_866_327_040),
  'wide_resnet18_2': (45_618_216, 6_695_706_624, 6_695_706_624),
  'wide_resnet50_2': (68_883_240, 11_398_021_120, 10_935_599_104),
  'resnext50_32x4d': (25_028_904, 4_230_479_872, 3_768_057_856),
  'resnext101_32x4d': (44_177_704, 7_969_996_800, 7_507_574_784),
}
# He's CIFAR networks with projection shortcuts, and Zagoruyko's (https://arxiv.org/abs/1605.07146,
# Table 4: 2.7M, 36.5M and 8.9M parameters), 10 classes, 32x32 images; and a small transformer.
CIFAR_MODELS = {
  'resnet20': (272_474, 40_813_184),
  'resnet32': (466_906, 69_124_736),
  'resnet44': (661_338, 97_436_288),
  'resnet56': (855_770, 125_747_840),
  'resnet110': (1_730_714, 253_149_824),
  'wrn16_4': (2_748_890, 392_612_352),
  'wrn28_10': (36_479_194, 5_243_328_768),
  'wrn40_4': (8_949_210, 1_298_582_016),
  'vit_tiny32': (2_693_578, 182_849_664),
}

# 224x224, 1000 classes; how they follow from the layers, and what the papers print, is in
# `test_mnasnet.py` and `test_vit.py`.
OTHER_MODELS = {
  'mnasnet_a1_0.75': (2_912_278, 223_448_480),
  'mnasnet_a1': (3_887_038, 311_579_072),
  'mnasnet_a1_1.25': (5_255_486, 503_413_168),
  'mnasnet_a1_1.4': (6_105_992, 586_317_952),
  'vit_ti16': (5_717_416, 1_253_683_200),
  'vit_s16': (22_050_664, 4_598_882_304),
  'vit_b16': (86_567_656, 17_563_828_224),
}

# Each mechanism in ResNet-50 at its default place, 1000 classes, 224x224, v1.5; products between
# activations included. The papers print 28.09M for SE and CBAM (CBAM's Table 4), 25.92M for BAM
# (Table 3(b) of Park et al., "BAM", https://arxiv.org/abs/1807.06514), 25.8M for augmented
# convolutions (Table 3 of Bello et al., https://arxiv.org/abs/1904.09925) and 18.0M for stand-alone
# attention (Table 1 of Ramachandran et al., https://arxiv.org/abs/1906.05909).
ATTENTION_IN_RESNET50 = {
  'aa': (25_813_872, 4_717_534_384),
  'additive': (28_073_880, 4_296_307_584),
  'bam': (25_915_099, 4_171_331_328),
  'cbam': (28_089_624, 4_095_573_110),
  'dual': (30_802_474, 4_762_659_072),
  'eca': (25_557_118, 4_089_272_064),
  'hybrid': (25_558_718, 4_090_631_030),
  'non_local': (32_915_496, 5_560_545_280),
  'sasa': (18_015_504, 3_403_077_632),
  'sca': (31_900_862, 4_246_693_424),
  'se': (28_088_024, 4_091_699_200),
}


def _model(name, **fields):
  return create_model(name, num_classes=10 if name in CIFAR_MODELS else 1000, **fields)


def _params(model, shape=IMAGENET):
  return count_params(cost.abstract_variables(model, shape))


@pytest.fixture(autouse=True, scope='module')
def _shapes_once():
  """Computes the shapes of a network once for both its parameters and its multiply-adds."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(cost, 'abstract_variables', functools.cache(cost.abstract_variables))
    yield


def test_no_network_and_no_mechanism_is_missing_here():
  assert set(list_models()) == {*IMAGENET_MODELS, *CIFAR_MODELS, *OTHER_MODELS}
  assert set(list_attention()) == set(ATTENTION_IN_RESNET50)


@pytest.mark.parametrize('name', IMAGENET_MODELS)
def test_imagenet_network(name):
  params, macs, macs_v1 = IMAGENET_MODELS[name]
  assert _params(_model(name)) == params
  assert count_macs(_model(name), IMAGENET) == macs
  if '50' in name:  # CBAM's Table 4 below tests those with 101 layers
    assert count_macs(_model(name, stride_in='1x1'), IMAGENET) == macs_v1


@pytest.mark.parametrize('name', CIFAR_MODELS)
def test_cifar_network(name):
  params, macs = CIFAR_MODELS[name]
  assert _params(_model(name), CIFAR) == params
  assert count_macs(_model(name), CIFAR) == macs


@pytest.mark.parametrize('name', OTHER_MODELS)
def test_other_network(name):
  model = _model(name)
  assert (_params(model), count_macs(model, IMAGENET)) == OTHER_MODELS[name]


@pytest.mark.parametrize('name', ATTENTION_IN_RESNET50)
def test_mechanism_in_resnet50(name):
  model = create_model('resnet50', attention=name)
  assert (_params(model), count_macs(model, IMAGENET)) == ATTENTION_IN_RESNET50[name]


# --- the same numbers from the layers, by hand


# Blocks per stage, width of each, and for bottlenecks the inner width per plane and the groups.
THIN, USUAL = (16, 32, 64), (64, 128, 256, 512)
LAYERS = {
  'resnet18': ((2, 2, 2, 2), USUAL),
  'resnet34': ((3, 4, 6, 3), USUAL),
  'resnet26': ((1, 2, 4, 1), USUAL, 1, 1),
  'resnet38': ((2, 3, 5, 2), USUAL, 1, 1),
  'resnet50': ((3, 4, 6, 3), USUAL, 1, 1),
  'resnet101': ((3, 4, 23, 3), USUAL, 1, 1),
  'resnet152': ((3, 8, 36, 3), USUAL, 1, 1),
  'wide_resnet18_1.5': ((2, 2, 2, 2), (96, 192, 384, 768)),
  'wide_resnet18_2': ((2, 2, 2, 2), (128, 256, 512, 1024)),
  'wide_resnet50_2': ((3, 4, 6, 3), USUAL, 2, 1),
  'resnext50_32x4d': ((3, 4, 6, 3), USUAL, 2, 32),
  'resnext101_32x4d': ((3, 4, 23, 3), USUAL, 2, 32),
  'resnet20': ((3, 3, 3), THIN),
  'resnet32': ((5, 5, 5), THIN),
  'resnet44': ((7, 7, 7), THIN),
  'resnet56': ((9, 9, 9), THIN),
  'resnet110': ((18, 18, 18), THIN),
  'wrn16_4': ((2, 2, 2), (64, 128, 256)),
  'wrn28_10': ((4, 4, 4), (160, 320, 640)),
  'wrn40_4': ((6, 6, 6), (64, 128, 256)),
}


def _derive(name, stride_in='3x3'):
  """Parameters and multiply-adds of a network, layer by layer."""
  blocks, widths, *bottleneck = LAYERS[name]
  preact = name.startswith('wrn')
  params = macs = 0

  def conv(size, inputs, outputs, kernel, stride=1, groups=1):
    """A convolution without bias on a square map, and its norm (scale and bias).

    In a pre-activation network its norm is the one before it, which the shortcut shares.
    """
    nonlocal params, macs
    size = -(-size // stride)
    params += kernel * kernel * inputs * outputs // groups
    macs += size * size * kernel * kernel * inputs * outputs // groups
    if not preact:
      params += 2 * outputs
    elif kernel > 1:
      params += 2 * inputs
    return size

  if name in CIFAR_MODELS:
    channels, classes = 16, 10
    size = conv(32, 3, channels, 3)
  else:
    channels, classes = 64, 1000
    size = conv(224, 3, channels, 7, 2) // 2  # the max-pool halves it
  if preact:  # no norm before the first convolution, but one after the last
    params += 2 * widths[-1] - 2 * 3

  for stage, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
    for block in range(depth):
      stride = 2 if stage > 0 and block == 0 else 1
      outputs = 4 * width if bottleneck else width
      if stride > 1 or channels != outputs:
        conv(size, channels, outputs, 1, stride)  # the projection of the shortcut
      if bottleneck:
        inner, groups = width * bottleneck[0], bottleneck[1]
        first, second = (stride, 1) if stride_in == '1x1' else (1, stride)
        size = conv(size, channels, inner, 1, first)
        size = conv(size, inner, inner, 3, second, groups)
        size = conv(size, inner, outputs, 1)
      else:
        size = conv(size, channels, width, 3, stride)
        size = conv(size, width, width, 3)
      channels = outputs
  return params + channels * classes + classes, macs + channels * classes


@pytest.mark.parametrize('name', LAYERS)
def test_golden_counts_of_networks_follow_from_their_layers(name):
  params, macs, *v1 = {**IMAGENET_MODELS, **CIFAR_MODELS}[name]
  assert _derive(name) == (params, macs)
  if v1:
    assert _derive(name, '1x1') == (params, *v1)


# Width, channels of the output, side of the map, and number of the blocks of ResNet-50's stages.
RESNET50_STAGES = (
  (64, 256, 56, 3),
  (128, 512, 28, 4),
  (256, 1024, 14, 6),
  (512, 2048, 7, 3),
)


def _derive_attention(name):
  """Parameters and multiply-adds that a mechanism adds to ResNet-50's, by hand."""
  return tuple(
    sum(parts)
    for parts in zip(*(_derive_stage(name, *stage) for stage in RESNET50_STAGES), strict=True)
  )


def _derive_stage(name, width, channels, side, blocks):
  first, last = width == 64, width == 512
  hidden, pixels = channels // 16, side * side
  # Of the 3x3 convolution that is replaced, in each block and at each pixel.
  conv = 9 * width * width

  if name == 'se':
    mlp = 2 * channels * hidden
    return blocks * (mlp + hidden + channels), blocks * mlp

  if name == 'additive':  # keys of all pixels with biases, one query without, a score each
    params = 2 * channels * hidden + 2 * hidden + 1
    return blocks * params, blocks * ((pixels + 1) * channels * hidden + pixels * hidden)

  if name == 'cbam':  # the shared layers see two pools; the 7x7 has two inputs, its norm one
    mlp, spatial = 2 * channels * hidden, 7 * 7 * 2
    params = mlp + hidden + channels + spatial + 2
    return blocks * params, blocks * (2 * mlp + pixels * spatial)

  if name in ('eca', 'hybrid'):  # the hybrid adds the spatial gate of CBAM
    taps, spatial = 7 if last else 5, 7 * 7 * 2
    if name == 'eca':
      return blocks * taps, blocks * taps * channels
    return blocks * (taps + spatial + 2), blocks * (taps * channels + pixels * spatial)

  if name == 'bam':  # after three stages; four biased convolutions and three norms in space
    if last:
      return 0, 0
    mlp = 2 * channels * hidden
    spatial = channels * hidden + 2 * 9 * hidden * hidden + hidden
    params = mlp + hidden + channels + 2 * hidden + spatial + 3 * hidden + 1 + 3 * 2 * hidden
    return params, mlp + pixels * spatial

  if name == 'aa':  # keys of 20 for each of 8 heads; tables of 2 * side - 1 rows and columns
    if first:
      return 0, 0
    keys, values = 160, {128: 8, 256: 24, 512: 48}[width]
    weights = 9 * width * (width - values) + width * (2 * keys + values) + values * values
    products = pixels * (keys + values) + 2 * side * keys  # with keys and values; with the tables
    return (
      blocks * (weights - conv + 2 * (2 * side - 1) * 20),
      blocks * pixels * (weights - conv + products),
    )

  if name == 'sasa':  # before the stride: in the first block of a stage the map is twice as large
    weights, tables = 3 * width * width, 7 * width // 8
    before = pixels * (blocks if first else blocks + 3)
    products = 2 * 49 * width + 7 * width
    macs = before * (weights + products) - blocks * pixels * conv
    return blocks * (weights + tables - conv), macs

  if name == 'non_local':  # every second block of stages 2 and 3; a quarter of the keys
    if first or last:
      return 0, 0
    half, acting = channels // 2, blocks // 2
    params = 3 * (channels * half + half) + half * channels + channels + 2 * channels
    layers = pixels * channels * half * (1 + 1 / 4 + 1 / 4 + 1)
    return acting * params, acting * int(layers + 2 * pixels * pixels / 4 * half)

  if name == 'dual':  # queries, keys and values of pixels; energies of channels; two scales
    if not last:
      return 0, 0
    keys = channels // 8
    params = 2 * (channels * keys + keys) + channels * channels + channels + 2
    position = pixels * (keys + channels) * pixels
    layers = pixels * (2 * channels * keys + channels * channels)
    return params, layers + position + 2 * pixels * channels * channels

  assert name == 'sca'  # in the last stage: 8 hidden units for channels, C / 4 for pixels
  if not last:
    return 0, 0
  hidden = channels // 4
  params = (2 * 8 + 8) + channels * 8 + 2 * 8 + (8 + 1)
  params += channels * hidden + hidden + channels * hidden + hidden + 1
  macs = channels * 2 * 8 + 2 * 8 + channels * 8
  macs += (pixels + 1) * channels * hidden + pixels * hidden
  return blocks * params, blocks * macs


@pytest.mark.parametrize('name', ATTENTION_IN_RESNET50)
def test_golden_counts_of_mechanisms_follow_from_their_layers(name):
  params, macs, _ = IMAGENET_MODELS['resnet50']
  more_params, more_macs = _derive_attention(name)
  assert ATTENTION_IN_RESNET50[name] == (params + more_params, macs + more_macs)


# --- further published numbers

# Table 4 of CBAM, recomputed to the unit with the released code: parameters, multiply-adds (v1).
CBAM_TABLE_4 = {
  ('resnet18', 'se'): (11_778_592, 1_814_160_384),
  ('resnet18', 'cbam'): (11_779_392, 1_815_063_764),
  ('resnet34', 'se'): (21_958_868, 3_663_918_592),
  ('resnet34', 'cbam'): (21_960_468, 3_665_434_742),
  ('resnet50', 'se'): (28_088_024, 3_860_488_192),
  ('resnet50', 'cbam'): (28_089_624, 3_864_362_102),
  ('resnet101', 'se'): (49_326_872, 7_574_937_600),
  ('resnet101', 'cbam'): (49_330_172, 7_581_366_270),
  ('wide_resnet18_1.5', 'se'): (26_074_716, 3_866_522_880),
  ('wide_resnet18_1.5', 'cbam'): (26_075_516, 3_867_535_060),
  ('wide_resnet18_2', 'se'): (45_970_456, 6_696_054_784),
  ('wide_resnet18_2', 'cbam'): (45_971_256, 6_697_219_284),
  ('resnext50_32x4d', 'se'): (27_559_896, 3_770_572_800),
  ('resnext50_32x4d', 'cbam'): (27_561_496, 3_774_446_710),
  ('resnext101_32x4d', 'se'): (48_955_416, 7_512_317_952),
  ('resnext101_32x4d', 'cbam'): (48_958_716, 7_518_746_622),
}


@pytest.mark.parametrize(
  ('name', 'attention'),
  [
    pytest.param(*row, marks=() if row[0] in ('resnet18', 'resnet50') else pytest.mark.slow)
    for row in CBAM_TABLE_4
  ],
)
def test_cbams_table_4(name, attention):
  model = create_model(name, attention=attention, stride_in='1x1')
  assert (_params(model), count_macs(model, IMAGENET)) == CBAM_TABLE_4[name, attention]


# Released code of CBAM and BAM (https://github.com/Jongchan/attention-module): network, mechanism,
# its fields, fields of the network, parameters.
CIFAR_STEM = {'stem': 'cifar', 'num_classes': 100}
RELEASED_PARAMS = [
  ('resnet18', 'bam', {}, {}, 11_712_503),
  ('resnet34', 'bam', {}, {}, 21_820_663),
  ('resnet50', 'bam', {}, {}, 25_915_099),
  ('resnet101', 'bam', {}, {}, 44_907_227),
  ('resnet18', None, None, CIFAR_STEM, 11_220_132),
  ('resnet18', 'cbam', {}, CIFAR_STEM, 11_310_012),
  ('resnet18', 'bam', {}, CIFAR_STEM, 11_243_123),
  ('resnet50', None, None, CIFAR_STEM, 23_705_252),
  ('resnet50', 'cbam', {}, CIFAR_STEM, 26_237_844),
  ('resnet50', 'bam', {}, CIFAR_STEM, 24_063_319),
  # The paper's 24.07M, which fit norms at the ends of the branches.
  ('resnet50', 'bam', {'end_norm': True}, CIFAR_STEM, 24_066_909),
  # Released code of ECA (https://github.com/BangguWu/ECANet), with its published kernel sizes.
  ('resnet18', 'eca', {'kernel_size': (3, 5, 7, 7)}, {}, 11_689_556),
  ('resnet34', 'eca', {'kernel_size': (3, 3, 5, 7)}, {}, 21_797_744),
  ('resnet50', 'eca', {'kernel_size': (3, 5, 5, 7)}, {}, 25_557_112),
  ('resnet101', 'eca', {'kernel_size': (3, 3, 5, 7)}, {}, 44_549_317),
  ('resnet152', 'eca', {'kernel_size': (3, 3, 5, 7)}, {}, 60_193_042),
  ('resnet50', 'eca', {'kernel_size': 3}, {}, 25_557_080),
]


@pytest.mark.parametrize(('name', 'attention', 'own', 'fields', 'params'), RELEASED_PARAMS)
def test_released_networks(name, attention, own, fields, params):
  model = create_model(name, attention=attention, attention_kwargs=own, **fields)
  assert _params(model, CIFAR if fields else IMAGENET) == params


# Table 3 of BAM: multiply-adds (v1) as printed, in units of 1e9.
@pytest.mark.parametrize(
  ('name', 'fields', 'shape', 'printed'),
  [
    ('resnet18', {}, IMAGENET, '1.82'),
    ('resnet50', {}, IMAGENET, '3.94'),
    ('resnet101', {}, IMAGENET, '7.65'),
    ('resnet50', CIFAR_STEM, CIFAR, '1.25'),
  ],
)
def test_bams_table_3(name, fields, shape, printed):
  model = create_model(name, attention='bam', stride_in='1x1', **fields)
  assert f'{count_macs(model, shape) / 1e9:.2f}' == printed


# One module on C channels, ratio 16, from the released code: SE, CBAM, BAM, and ECA by its rule.
MODULE_PARAMS = {
  64: {'se': 580, 'cbam': 680, 'bam': 1_173, 'eca': 3},
  128: {'se': 2_184, 'cbam': 2_284, 'bam': 4_457, 'eca': 5},
  256: {'se': 8_464, 'cbam': 8_564, 'bam': 17_361, 'eca': 5},
  512: {'se': 33_312, 'cbam': 33_412, 'bam': 68_513, 'eca': 5},
  1024: {'se': 132_160, 'cbam': 132_260, 'bam': 272_193, 'eca': 5},
  2048: {'se': 526_464, 'cbam': 526_564, 'bam': 1_085_057, 'eca': 7},
}


@pytest.mark.parametrize('channels', MODULE_PARAMS)
def test_single_modules(channels):
  for name, params in MODULE_PARAMS[channels].items():
    module = ATTENTION[name]()
    x = jnp.zeros((1, 2, 3, channels))
    variables = jax.eval_shape(lambda m=module, x=x: m.init(jax.random.key(0), x, train=False))
    assert count_params(variables) == params
