"""ResNets: shapes, shortcuts, where attention acts, initial gradients, and mistakes."""

import functools
import re

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_flax import UserError, create_model
from attn_flax.attention import se
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
# Three stages of two blocks, small enough to run.
TINY = {'depths': (2, 2, 2), 'widths': (16, 32, 64), 'num_classes': 5}
# Programs that run once need no optimization, as compiling takes most of the time.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@functools.cache
def _abstract(model, size=(32, 32)):
  """Shapes of a model's variables."""
  images = jnp.zeros((2, *size, 3))
  return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)


def _paths(model):
  """The paths of a model's parameters, such as 'stage1_block1/conv1/kernel'."""
  return set(flax.traverse_util.flatten_dict(_abstract(model)['params'], sep='/'))


def _modules(model, ending):
  """The paths of the submodules with parameters whose name ends with `ending`."""
  pattern = re.compile(f'^(.*?{ending})/')
  return {match[1] for path in _paths(model) if (match := pattern.match(path))}


def _outputs(model, size, keep):
  """Shapes of the outputs of the submodules for which `keep(module)`, by path."""

  def run(x):
    keys = jax.random.key(0)
    options = {'capture_intermediates': lambda m, _: keep(m), 'mutable': True}
    return model.init(keys, x, train=False, **options)['intermediates']

  outputs = jax.eval_shape(run, jnp.zeros((2, *size, 3)))
  return {
    path.removesuffix('/__call__'): value[0].shape
    for path, value in flax.traverse_util.flatten_dict(outputs, sep='/').items()
    if path.endswith('/__call__')
  }


# --- shapes


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
  shapes = _outputs(create_model(name, stem=stem), size, lambda module: isinstance(module, BLOCKS))
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
  assert _modules(create_model(name, stem='cifar'), 'shortcut_conv') == expected


@pytest.mark.parametrize(('stride_in', 'strided'), [('3x3', 'conv2'), ('1x1', 'conv1')])
def test_stride_in_names_the_convolution_that_takes_the_stride(stride_in, strided):
  model = create_model('resnet50', stem='cifar', stride_in=stride_in)
  shapes = _outputs(model, (32, 32), lambda module: isinstance(module, nn.Conv))
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
  assert set(_abstract(create_model('resnet20', attention='cbam'))) == {'params', 'batch_stats'}


@pytest.mark.parametrize('attention', [None, 'se', 'eca', 'cbam', 'bam'])
def test_bfloat16_networks_have_float32_parameters_and_logits(attention):
  """Feature maps are bfloat16: attention does not raise them to float32."""
  model = create_model(
    'resnet50', attention=attention, depths=(1, 1, 1, 1), stem='cifar', dtype='bfloat16'
  )
  variables = _abstract(model)
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


# --- a plain block against numpy


def _conv(x, kernel, stride, groups=1):
  """A convolution padded by half its kernel, one output pixel at a time."""
  taps = kernel.shape[0]
  pad = taps // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  n, height, width, channels = x.shape
  height, width = (height - taps) // stride + 1, (width - taps) // stride + 1
  y = np.zeros((n, height, width, kernel.shape[-1]))
  into, out = channels // groups, kernel.shape[-1] // groups
  for i in range(height):
    for j in range(width):
      window = x[:, i * stride : i * stride + taps, j * stride : j * stride + taps]
      for g in range(groups):
        inputs = window[..., g * into : (g + 1) * into]
        outputs = slice(g * out, (g + 1) * out)
        y[:, i, j, outputs] = np.einsum('nabc,abco->no', inputs, kernel[..., outputs])
  return y


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'bottleneck': True},
    {'bottleneck': True, 'stride_in': '1x1'},
    {'bottleneck': True, 'groups': 2, 'base_width': 32},
  ],
  ids=str,
)
def test_plain_block_is_the_formula(randomized, fields, stride):
  """With odd sizes, 4 planes, 6 input channels and running statistics."""
  block = Block(4, stage=2, stride=stride, **fields)
  x = np.random.default_rng(0).normal(size=(2, 5, 7, 6)).astype(np.float32)
  variables = randomized(
    jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), jnp.asarray(x))
  )
  params, stats = jax.tree.map(np.float64, (variables['params'], variables['batch_stats']))

  def unit(x, conv, norm, stride=1, groups=1):
    y = _conv(x, params[conv]['kernel'], stride, groups) - stats[norm]['mean']
    y = y / np.sqrt(stats[norm]['var'] + 1e-5)
    return y * params[norm]['scale'] + params[norm]['bias']

  def relu(x):
    return np.maximum(x, 0)

  if fields:
    first, second = (stride, 1) if fields.get('stride_in') == '1x1' else (1, stride)
    y = relu(unit(x, 'conv1', 'norm1', first))
    y = relu(unit(y, 'conv2', 'norm2', second, fields.get('groups', 1)))
    y = unit(y, 'conv3', 'norm3')
  else:
    y = unit(relu(unit(x, 'conv1', 'norm1', stride)), 'conv2', 'norm2')
  expected = relu(unit(x, 'shortcut_conv', 'shortcut_norm', stride) + y)
  got = jit(lambda v, x: block.apply(v, x, train=False))(variables, x)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('channels', 'stride'), [(4, 1), (4, 2), (6, 1), (6, 2)])
def test_pre_activation_block_is_the_formula(randomized, channels, stride):
  """The first norm and ReLU act on the shortcut only where it is projected."""
  block = PreActivationBlock(4, stage=2, stride=stride)
  x = np.random.default_rng(0).normal(size=(2, 5, 7, channels)).astype(np.float32)
  variables = randomized(
    jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), jnp.asarray(x))
  )
  params, stats = jax.tree.map(np.float64, (variables['params'], variables['batch_stats']))

  def norm_relu(x, name):
    y = (x - stats[name]['mean']) / np.sqrt(stats[name]['var'] + 1e-5)
    return np.maximum(y * params[name]['scale'] + params[name]['bias'], 0)

  y = norm_relu(x, 'norm1')
  shortcut = x
  if channels != 4 or stride == 2:
    shortcut = _conv(y, params['shortcut_conv']['kernel'], stride)
  y = norm_relu(_conv(y, params['conv1']['kernel'], stride), 'norm2')
  expected = shortcut + _conv(y, params['conv2']['kernel'], 1)
  got = jit(lambda v, x: block.apply(v, x, train=False))(variables, x)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


# --- where attention acts


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


class Pooled(nn.Module):
  """A mechanism that replaces a 3x3 convolution."""

  where = 'conv'

  features: int
  stride: int = 1

  @nn.compact
  def __call__(self, x):
    x = nn.avg_pool(x, (1, 1), (self.stride,) * 2)
    return nn.Dense(self.features, name='mix')(x)


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
  return run(randomize(_abstract(model)), images)


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
  assert _modules(model, 'conv_attention') == {f'{block}/conv_attention' for block in blocks}
  kernels = {f'stage{s}_block{b}/{replaced}/kernel' for s in (1, 2, 3) for b in (1, 2)}
  assert kernels - _paths(model) == {f'{block}/{replaced}/kernel' for block in blocks}
  shapes = _outputs(model, (8, 8), lambda module: isinstance(module, (Pooled, Block)))
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
  assert _modules(create_model('resnet20', attention={where: entry}), '_attention') == expected


@pytest.mark.parametrize(('name', 'stages'), [('resnet18', (1, 2, 3)), ('resnet20', (1, 2))])
def test_bam_acts_after_all_stages_but_the_last_by_default(name, stages):
  model = create_model(name, attention='bam', stem='cifar')
  assert _modules(model, '_attention') == {f'stage{s}_stage_attention' for s in stages}


@pytest.mark.parametrize('attention', ['se', 'eca', 'cbam'])
def test_branch_mechanisms_act_in_every_block_by_default(attention):
  model = create_model('resnet18', attention=attention, stem='cifar')
  expected = {f'stage{s}_block{b}/branch_attention' for s in (1, 2, 3, 4) for b in (1, 2)}
  assert _modules(model, '_attention') == expected


def test_two_places_hold_two_mechanisms():
  entries = {'branch': {'name': 'eca', 'stages': (1,)}, 'stage': {'name': 'bam', 'ratio': 4}}
  model = create_model('resnet20', attention=entries, **TINY)
  expected = {f'stage1_block{b}/branch_attention' for b in (1, 2)}
  assert _modules(model, '_attention') == expected | {f'stage{s}_stage_attention' for s in (1, 2)}
  reduce = _abstract(model)['params']['stage2_stage_attention']['channel']['reduce']['kernel']
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
  params = _abstract(model)['params']
  for stage, size in enumerate(taps, start=1):
    for block in (1, 2):
      attention = params[f'stage{stage}_block{block}']['branch_attention']
      assert attention['channel']['conv']['kernel'].shape == (size, 1, 1)


def test_a_name_a_class_and_a_mapping_make_equal_networks():
  """So does a mapping from a file, whose tuples have become lists."""
  entry = {'name': 'se', 'stages': [1, 2, 3], 'every': 1, 'ratio': 4}
  models = [
    create_model('resnet20', attention='se', attention_kwargs={'ratio': 4}, **TINY),
    create_model('resnet20', attention=se.SE, attention_kwargs={'ratio': 4}, **TINY),
    create_model('resnet20', attention={'branch': {**entry, 'stages': None}}, **TINY),
    create_model('resnet20', attention={'branch': {**entry, 'name': se.SE}}, **TINY),
    create_model(
      'resnet20',
      attention={'branch': entry},
      **{key: list(value) if key != 'num_classes' else value for key, value in TINY.items()},
    ),
  ]
  assert len(set(models)) == 1


def test_an_empty_mapping_is_the_plain_network():
  assert create_model('resnet20', attention={}) == create_model('resnet20')


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

  variables = randomized(_abstract(model(start='identity')))
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


class OwnGate(nn.Module):
  """A user's own mechanism: a learned temperature on the channels' means."""

  temperature: float = 1.0

  @nn.compact
  def __call__(self, x, *, train):
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    return x * nn.sigmoid(x.mean((1, 2), keepdims=True) * scale / self.temperature)


def test_a_users_own_class_acts_in_every_block_and_takes_its_fields(randomized):
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  logits = {}
  for temperature in (1.0, 5.0):
    kwargs = {'temperature': temperature}
    model = create_model('resnet20', attention=OwnGate, attention_kwargs=kwargs, **TINY)
    variables = randomized(_abstract(model))
    assert len(_modules(model, 'branch_attention')) == 6
    chex.assert_shape(variables['params']['stage3_block1']['branch_attention']['scale'], (64,))
    run = jit(lambda v, x, m=model: m.apply(v, x, train=False))
    logits[temperature] = run(variables, images)
  chex.assert_shape(logits[1.0], (2, 5))
  assert not np.allclose(logits[1.0], logits[5.0])


# --- gradients at the start


def _initial_gradients(attention, **fields):
  """Largest gradient of each gate parameter at the first step of training."""
  model = create_model(
    'resnet20',
    attention=attention,
    attention_kwargs={'stages': 1} if attention == 'eca' else {'stages': 1, 'ratio': 4},
    depths=(1,),
    widths=(32,),
    num_classes=5,
    **fields,
  )
  rng = np.random.default_rng(0)
  images = rng.normal(size=(8, 6, 7, 3)).astype(np.float32)
  labels = rng.integers(0, 5, 8)
  variables = jit(lambda x: model.init(jax.random.key(0), x, train=False))(images)

  @jit
  def gradients(variables, images):
    def loss(params):
      logits, _ = model.apply(
        {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
      )
      return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    return jax.grad(loss)(variables['params'])

  flat = flax.traverse_util.flatten_dict(gradients(variables, images), sep='/')
  return {path: float(np.abs(value).max()) for path, value in flat.items() if '_attention/' in path}


# In training a norm subtracts the mean, and with it any bias before the norm.
BEFORE_NORM = re.compile(r'channel/reduce/bias|spatial/(reduce|conv\d)/bias')


@pytest.mark.parametrize('attention', ['se', 'eca', 'bam'])
def test_every_gate_parameter_learns_from_the_first_step(attention):
  for path, largest in _initial_gradients(attention).items():
    if attention == 'bam' and BEFORE_NORM.search(path):
      assert largest < 1e-7
    else:
      assert largest > 1e-6


def test_cbams_spatial_convolution_waits_for_the_second_step():
  """Its norm's scale starts at 0, as in the released code; everything else learns."""
  for path, largest in _initial_gradients('cbam').items():
    if path.endswith('spatial/conv/kernel'):
      assert largest == 0
    else:
      assert largest > 1e-6


@pytest.mark.parametrize('attention', ['se', 'eca', 'cbam'])
def test_gates_after_a_zero_last_norm_get_no_gradient_at_first(attention):
  """They multiply a branch of zeros, which is why `zero_init_last` is off by default."""
  gradients = _initial_gradients(attention, zero_init_last=True)
  assert gradients and set(gradients.values()) == {0.0}


# --- mistakes

MISTAKES = {
  'model': (('resnet49',), {}, "unknown model 'resnet49'; did you mean 'resnet44'?"),
  'field': (('resnet50',), {'num_class': 10}, "did you mean 'num_classes'?"),
  'attention field of the network': (('resnet50',), {'placements': ()}, 'allowed: base_width'),
  'attention': (('resnet50',), {'attention': 'sse'}, "unknown attention 'sse'; did you mean 'se'?"),
  'field of the mechanism': (
    ('resnet50',),
    {'attention': 'se', 'attention_kwargs': {'ration': 8}},
    "unknown field of se 'ration'; did you mean 'ratio'? allowed: bias, divisor, ratio",
  ),
  'field of a class': (
    ('resnet50',),
    {'attention': OwnGate, 'attention_kwargs': {'ratio': 8}},
    "unknown field of OwnGate 'ratio'; allowed: temperature",
  ),
  'place': (
    ('resnet50',),
    {'attention': {'branches': {'name': 'se'}}},
    "place 'branches'; did you mean 'branch'? allowed: block, branch, conv, stage",
  ),
  'an instance': (
    ('resnet50',),
    {'attention': se.SE(ratio=8)},
    'attention must be a name, a module class or a mapping of places',
  ),
  'no name': (('resnet50',), {'attention': {'branch': {}}}, "attention at 'branch' has no name"),
  'refiner as a convolution': (
    ('resnet50',),
    {'attention': {'conv': {'name': 'se'}}},
    "se refines a feature map, so it cannot act at 'conv'; allowed: branch, block, stage",
  ),
  'convolution as a refiner': (
    ('resnet50',),
    {'attention': {'branch': {'name': Pooled}}},
    "Pooled replaces a convolution, so it cannot act at 'branch'; allowed: conv",
  ),
  'stage after the last': (
    ('resnet20',),
    {'attention': 'se', 'attention_kwargs': {'stages': (3, 4)}},
    'se asks for stages (3, 4), but the network has stages 1..3',
  ),
  'stage 0': (
    ('resnet20',),
    {'attention': 'se', 'attention_kwargs': {'stages': 0}},
    'se asks for stages (0,), but the network has stages 1..3',
  ),
  'no stage': (
    ('resnet20',),
    {'attention': 'se', 'attention_kwargs': {'stages': ()}},
    'se asks for stages ()',
  ),
  'every': (
    ('resnet20',),
    {'attention': 'se', 'attention_kwargs': {'every': 0}},
    'se every=0 meets no block',
  ),
  'impossible value of the mechanism': (
    ('resnet50',),
    {'attention': 'cbam', 'attention_kwargs': {'kernel_size': 6}},
    'cbam: kernel_size=6 is impossible; choose an odd number from 1 to 63',
  ),
  'values per stage': (
    ('resnet50',),
    {'attention': 'eca', 'attention_kwargs': {'kernel_size': (3, 5, 7)}},
    'eca kernel_size=(3, 5, 7) has 3 values for 4 stages; give one value, or one per stage',
  ),
  'kwargs without attention': (
    ('resnet50',),
    {'attention_kwargs': {'ratio': 8}},
    'attention_kwargs need an attention',
  ),
  'kwargs beside a mapping': (
    ('resnet50',),
    {'attention': {'branch': {'name': 'se'}}, 'attention_kwargs': {'ratio': 8}},
    'leave attention_kwargs out',
  ),
  'depths and widths': (
    ('resnet20',),
    {'depths': (1, 1)},
    'depths=(1, 1) and widths=(16, 32, 64) differ in length',
  ),
  'stem': (('resnet18',), {'stem': 'cifar10'}, "unknown stem 'cifar10'; did you mean 'cifar'?"),
  'stride_in': (('resnet18',), {'stride_in': '2x2'}, 'allowed: 1x1, 3x3'),
  'dtype': (('resnet18',), {'dtype': 'float16'}, 'allowed: bfloat16, float32'),
  'dtype beside attention': (
    ('resnet18',),
    {'dtype': 'float31', 'attention': 'se'},
    "unknown dtype 'float31'; did you mean 'float32'? allowed: bfloat16, float32",
  ),
  'depth of a WideResNet': (('wrn27_10',), {}, "'wrn27_10' names no WideResNet: its depth must be"),
  'start': (
    ('resnet50',),
    {'attention': 'se', 'attention_kwargs': {'start': 'zero'}},
    "unknown start 'zero'; allowed: identity, paper",
  ),
  'identity of a convolution': (
    ('resnet50',),
    {'attention': Pooled, 'attention_kwargs': {'start': 'identity'}},
    'Pooled replaces a convolution, so the network cannot start with what it computes without it',
  ),
  'ratio': (
    ('resnet20',),
    {'attention': 'se', 'attention_kwargs': {'ratio': 17}},
    'ratio=17 does not fit 16 channels: the ratio must lie in 1..16',
  ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_named_with_what_is_allowed(mistake):
  names, fields, text = MISTAKES[mistake]
  with pytest.raises(UserError, match=re.escape(text)):
    _abstract(create_model(*names, **fields))


@pytest.mark.parametrize(
  ('name', 'size', 'least'), [('resnet18', (64, 31), 32), ('resnet20', (3, 8), 4)]
)
def test_images_smaller_than_the_stride_are_refused(name, size, least):
  text = (
    f'images of {size[0]}x{size[1]} pixels are too small for this network, which takes {least}x'
  )
  with pytest.raises(UserError, match=text):
    _abstract(create_model(name), size)
  _abstract(create_model(name), (least, least))


def test_fields_that_the_network_sets_cannot_be_set_by_the_user():
  """The network sets features and stride of a module that replaces a convolution."""
  for field in ('features', 'stride', 'dtype'):
    with pytest.raises(UserError, match=f"unknown field of Pooled '{field}'"):
      create_model('resnet20', attention=Pooled, attention_kwargs={field: 1})


@pytest.mark.parametrize('name', ['resnet20', 'mnasnet_a1', 'vit_tiny32'])
@pytest.mark.parametrize(
  'dtype', ['bfloat16', jnp.bfloat16, jnp.dtype('bfloat16'), jnp.ones((), jnp.bfloat16).dtype]
)
def test_a_dtype_may_be_given_in_every_form(name, dtype):
  """The network keeps its name, as configs do, so that equal networks compare equal."""
  assert create_model(name, num_classes=2, dtype=dtype).dtype == 'bfloat16'
  create_model(name, num_classes=2).clone(dtype=dtype).check()


@pytest.mark.parametrize('dtype', [jnp.float16, 'float64', int, None, 3])
def test_other_dtypes_are_refused_by_name(dtype):
  with pytest.raises(UserError, match='unknown dtype .*allowed: bfloat16, float32'):
    create_model('resnet20', num_classes=2, dtype=dtype)
