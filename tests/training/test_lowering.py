"""Training steps and networks lowered for CPU, GPU and TPU, on a machine without the latter."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from attn_flax.attention import ATTENTION
from attn_flax.models import create_model
from attn_flax.tasks.classification import classification
from attn_flax.training.optimizer import make_optimizer, make_schedule
from attn_flax.training.steps import init_state, make_train_step
from configs import base

SHAPE = (16, 16, 3)
PLATFORMS = ['cpu', 'cuda', 'tpu']


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('attention', [None, *ATTENTION])
def test_the_training_step_lowers_for_every_platform(attention, dtype):
  """With label smoothing, clipping and a moving average of the weights."""
  # Wide enough for eight heads, and deep enough for every second block.
  size = {'depths': (1, 2, 1), 'widths': (80, 96, 112)}
  model = create_model('resnet20', attention=attention, num_classes=10, dtype=dtype, **size)
  config = base.get_config().optimizer
  schedule = make_schedule(config, batch_size=8, updates=20, updates_per_epoch=5)
  optimizer = make_optimizer(config, schedule, clip_norm=1.0)
  task = classification(label_smoothing=0.1)
  step = make_train_step(model, optimizer, schedule, task, ema_decay=0.99)

  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(lambda k: init_state(model, optimizer, k, SHAPE, ema=True), key)
  assert ('attention' in str(state.params)) == (attention is not None)
  batch = {
    'image': jax.ShapeDtypeStruct((8, *SHAPE), jnp.float32),
    'label': jax.ShapeDtypeStruct((8,), jnp.int32),
  }
  exported = export.export(jax.jit(step, donate_argnums=0), platforms=PLATFORMS)(state, batch, key)
  assert exported.platforms == tuple(PLATFORMS)
  assert 'convolution' in exported.mlir_module()
  assert [(a.shape, a.dtype) for a in exported.out_avals] == [
    (a.shape, a.dtype) for a in jax.tree.leaves(jax.eval_shape(step, state, batch, key))
  ]


def _lowered(model, platforms):
  """The StableHLO of a network's evaluation."""
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
  run = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
  return export.export(run, platforms=platforms)(variables, images).mlir_module()


def _kernels(program):
  """The shapes [height, width, inputs of a group, outputs] of a program's convolutions, a set.

  A program for several platforms contains a convolution for each of them.
  """
  kernels = re.findall(r'stablehlo\.convolution.*: \(tensor<\w+>, tensor<([\dx]+)xf32>\)', program)
  return {tuple(map(int, kernel.split('x'))) for kernel in kernels}


@pytest.mark.parametrize('platforms', [[p] for p in PLATFORMS] + [PLATFORMS], ids='-'.join)
def test_the_large_convolution_of_cbam_has_the_form_of_each_platform(platforms):
  """A matrix product of 7 * 2 stacked columns with 7 rows on CPU, and a convolution elsewhere."""
  model = create_model('resnet20', attention='cbam', num_classes=10, depths=(1, 1, 1))
  program = _lowered(model, platforms)
  is_product = re.search(r'stablehlo\.dot_general.*tensor<14x7xf32>\)', program)
  assert bool(is_product) == ('cpu' in platforms)
  assert ((7, 7, 2, 1) in _kernels(program)) == (platforms != ['cpu'])
  assert (3, 3, 32, 32) in _kernels(program)  # The other convolutions are the same everywhere.


@pytest.mark.parametrize('platforms', [[p] for p in PLATFORMS] + [PLATFORMS], ids='-'.join)
def test_depthwise_convolutions_have_the_form_of_each_platform(platforms):
  """On CPU only the stem is a convolution; a depthwise one of 5x5 is a sum of 25 shifted maps."""
  model = create_model('mnasnet_a1', num_classes=10, stem='cifar', depths=(1,) * 7)
  program = _lowered(model, platforms)
  large = {kernel for kernel in _kernels(program) if kernel[0] > 1}
  stem, channels = (3, 3, 3, 32), {3: (32, 96, 240, 480, 960), 5: (72, 672)}
  depthwise = {(side, side, 1, c) for side in channels for c in channels[side]}
  assert large == ({stem} if platforms == ['cpu'] else {stem, *depthwise})
