"""Programs lower for CPU, GPU and TPU on any machine, each into the form of its platform."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from attn_flax.attention import ATTENTION
from attn_flax.errors import UserError
from attn_flax.models import create_model
from attn_flax.tasks.names import find_task
from attn_flax.tasks.task import Options
from attn_flax.training.optimizer import make_optimizer, make_schedule
from attn_flax.training.steps import init_state, make_train_step
from configs import base

SHAPE = (16, 16, 3)
PLATFORMS = ('cpu', 'cuda', 'tpu')


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('attention', [None, *ATTENTION])
def test_the_training_step_lowers_for_every_platform(attention, dtype):
  """With all that a step may hold: smoothing, clipping, an average of the weights."""
  # Wide enough for eight heads, and deep enough for every second block.
  size = {'depths': (1, 2, 1), 'widths': (80, 96, 112)}
  model = create_model('resnet20', attention=attention, num_classes=10, dtype=dtype, **size)
  config = base.get_config().optimizer
  schedule = make_schedule(config, batch_size=8, updates=20, updates_per_epoch=5)
  optimizer = make_optimizer(config, schedule, clip_norm=1.0)
  task = find_task('classification', Options(label_smoothing=0.1))
  step = make_train_step(model, optimizer, schedule, task, ema_decay=0.99)

  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(lambda k: init_state(model, optimizer, k, SHAPE, ema=True), key)
  assert ('attention' in str(state.params)) == (attention is not None)
  batch = {
    'image': jax.ShapeDtypeStruct((8, *SHAPE), jnp.float32),
    'label': jax.ShapeDtypeStruct((8,), jnp.int32),
  }
  exported = export.export(jax.jit(step, donate_argnums=0), platforms=PLATFORMS)(state, batch, key)
  assert exported.platforms == PLATFORMS
  assert 'convolution' in exported.mlir_module()
  assert [(a.shape, a.dtype) for a in exported.out_avals] == [
    (a.shape, a.dtype) for a in jax.tree.leaves(jax.eval_shape(step, state, batch, key))
  ]


def lowered(model, *platforms):
  """A network's program in evaluation mode for some platforms, as text."""
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(
    lambda key, x: model.init(key, x, train=False), jax.random.key(0), images
  )
  apply = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
  return str(export.export(apply, platforms=platforms)(variables, images).mlir_module())


def convolutions(program):
  """How many convolutions a program holds, and whether any has a large or a depthwise kernel."""
  lines = [line for line in program.splitlines() if 'stablehlo.convolution' in line]
  large = any('tensor<7x7x2x1xf32>' in line for line in lines)
  depthwise = any('feature_group_count = 1 :' not in line for line in lines)
  return len(lines), large, depthwise


def test_a_network_has_the_form_of_the_platform_that_it_is_lowered_for():
  """CBAM's 7x7 convolution is a matrix product and shifts on a CPU, and a convolution elsewhere."""
  size = {'depths': (1, 1, 1), 'widths': (16, 16, 16)}
  model = create_model('resnet20', attention='cbam', num_classes=10, **size)
  found = {platform: convolutions(lowered(model, platform)) for platform in PLATFORMS}
  # Each of three blocks has one.
  count = found['cpu'][0]
  assert found == {
    'cpu': (count, False, False),
    'cuda': (count + 3, True, False),
    'tpu': (count + 3, True, False),
  }


def test_depthwise_convolutions_have_the_form_of_their_platform():
  model = create_model('mnasnet_a1', stem='cifar', depths=(1,) * 7, num_classes=10)
  found = {platform: convolutions(lowered(model, platform)) for platform in PLATFORMS}
  count = found['cpu'][0]
  assert found == {
    'cpu': (count, False, False),
    'cuda': (count + 7, False, True),
    'tpu': (count + 7, False, True),
  }


def test_a_program_for_several_platforms_holds_the_forms_of_all():
  size = {'depths': (1, 1, 1), 'widths': (16, 16, 16)}
  model = create_model('resnet20', attention='cbam', num_classes=10, **size)
  program = lowered(model, *PLATFORMS)
  assert convolutions(program)[1] and 'stablehlo.case' in program


@pytest.mark.parametrize(('dtype', 'refused'), [('float32', False), ('bfloat16', True)])
def test_a_fused_kernel_that_cannot_be_prepared_here_is_refused(dtype, refused):
  """Lowered for a GPU it would be another program than a GPU's own; for the others it is theirs."""
  if jax.default_backend() != 'cpu':
    pytest.skip('this machine may have cuDNN, and then prepares its kernel')
  model = create_model(
    'resnet20',
    attention={'conv': {'name': 'aa', 'implementation': 'fused', 'heads': 2, 'upsilon': 0.5}},
    depths=(1, 1, 1),
    widths=(16, 16, 16),
    num_classes=10,
    dtype=dtype,
  )
  for platform in ('cpu', 'tpu'):
    assert 'dot_general' in lowered(model, platform)
  if refused:
    with pytest.raises(UserError, match="implementation='blocks'"):
      lowered(model, 'cuda')
  else:
    assert 'dot_general' in lowered(model, 'cuda')
