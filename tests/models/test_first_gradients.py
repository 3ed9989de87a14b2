"""Which parameters of gates have a gradient at the first step of training."""

import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_jit import jit

from attn_flax import create_model


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
