"""The training step of every mechanism lowers for CPU, GPU and TPU, on a machine without them."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from attn_flax.attention import ATTENTION
from attn_flax.layers import convolution
from attn_flax.models import create_model
from attn_flax.training.optimizer import make_optimizer, make_schedule
from attn_flax.training.steps import init_state, make_train_step
from configs import base

SHAPE = (16, 16, 3)
PLATFORMS = ['cpu', 'cuda', 'tpu']


# Layers choose their formulation by the device that traces them; both are lowered.
@pytest.mark.parametrize(('on_cpu', 'dtype'), [(True, 'float32'), (False, 'bfloat16')])
@pytest.mark.parametrize('attention', [None, *ATTENTION])
def test_the_training_step_lowers_for_every_platform(attention, on_cpu, dtype, monkeypatch):
  """With all that a step may hold: smoothing, clipping, an average of the weights."""
  monkeypatch.setattr(convolution, '_on_cpu', lambda: on_cpu)
  # Wide enough for eight heads, and deep enough for every second block.
  size = {'depths': (1, 2, 1), 'widths': (80, 96, 112)}
  model = create_model('resnet20', attention=attention, num_classes=10, dtype=dtype, **size)
  config = base.get_config().optimizer
  schedule = make_schedule(config, batch_size=8, updates=20, updates_per_epoch=5)
  optimizer = make_optimizer(config, schedule, clip_norm=1.0)
  step = make_train_step(model, optimizer, schedule, label_smoothing=0.1, ema_decay=0.99)

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
