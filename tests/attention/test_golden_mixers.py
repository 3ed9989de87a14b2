"""Mixers and augmented convolution against golden values, with the weights of these.

The files `dual_*` and `non_local_*` hold what released PyTorch modules returned, as in
`test_golden_blocks`; `augmented_*` hold the result of the paper's equations in float64 loops.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_blocks import BLOCKS, nhwc, variables_of

from attn_flax.attention.aa import IMPLEMENTATIONS, AugmentedConv
from attn_flax.attention.dual import ChannelAttention, PositionAttention
from attn_flax.attention.non_local import NonLocal

NON_LOCAL_NAMES = {'theta': 'theta', 'W.0': 'output', 'W.1': 'norm'}
# By file: the module, the name here of each PyTorch layer, and whether its output is to be added.
RELEASED = {
  'dual_position_c64': (
    PositionAttention(),
    {'query_conv': 'query', 'key_conv': 'key', 'value_conv': 'value'},
    True,
  ),
  'dual_channel_c64': (ChannelAttention(), {}, True),
  'non_local_c32': (
    NonLocal(subsample='after', scale=False),
    {**NON_LOCAL_NAMES, 'phi.0': 'phi', 'g.0': 'g'},
    False,
  ),
  'non_local_nosub_c32': (
    NonLocal(subsample='none', scale=False),
    {**NON_LOCAL_NAMES, 'phi': 'phi', 'g': 'g'},
    False,
  ),
}


@pytest.mark.parametrize('file', RELEASED)
def test_module_returns_what_the_released_code_returns(file):
  """Values agree to 1e-5, the gradient with respect to the input to 1e-5 of its largest entry.

  That entry is 3 to 18. The released code of non_local sums in float32, and its gradient is itself
  up to 4e-5 away from that of the same weights in float64.
  """
  module, names, adds = RELEASED[file]
  golden = np.load(BLOCKS / f'{file}.npz')
  variables = variables_of(golden, names)
  x, cotangent = nhwc(golden['x']), nhwc(golden['cotangent'])
  initial = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
  chex.assert_trees_all_equal_shapes_and_dtypes(initial, variables)

  @jax.jit
  def run(x):
    def apply(x):
      y = module.apply(variables, x, train=False)
      return x + y if adds else y

    y, pull = jax.vjp(apply, x)
    return y, pull(cotangent)[0]

  y, dx = run(x)
  np.testing.assert_allclose(y, nhwc(golden['y']), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(dx, nhwc(golden['dx']), rtol=0, atol=1e-5 * np.abs(golden['dx']).max())


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
@pytest.mark.parametrize('file', ['augmented_relative', 'augmented_no_position'])
def test_augmented_convolution_returns_what_the_papers_equations_give(file, implementation):
  """Output and weights agree to 1e-5; key and value dimensions follow from kappa and upsilon."""
  golden = np.load(BLOCKS / f'{file}.npz')
  relative, heads = bool(golden['relative']), int(golden['num_heads'])
  value_dim = golden['output_kernel'].shape[0]
  key_dim = (golden['qkv_kernel'].shape[1] - value_dim) // 2
  features = golden['conv_kernel'].shape[-1] + value_dim
  module = AugmentedConv(
    features,
    heads=heads,
    kappa=key_dim / features,
    upsilon=value_dim / features,
    min_key_dim=1,
    relative=relative,
    implementation=implementation,
  )
  params = {
    'conv': {'kernel': golden['conv_kernel']},
    'qkv': {'kernel': golden['qkv_kernel'][None, None]},
    'output': {'kernel': golden['output_kernel'][None, None]},
  }
  if relative:
    params['relative_height'] = golden['relative_height']
    params['relative_width'] = golden['relative_width']
  x = jnp.asarray(golden['x_nhwc'])
  chex.assert_trees_all_equal_shapes_and_dtypes(
    jax.eval_shape(module.init, jax.random.key(0), x), {'params': params}
  )

  @jax.jit
  def run(x):
    everyone = jnp.arange(x.shape[1] * x.shape[2])
    weights = module.apply({'params': params}, x, everyone, method='weights')
    return module.apply({'params': params}, x), weights

  y, weights = run(x)
  np.testing.assert_allclose(y, golden['y_nhwc'], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(weights, golden['weights'], rtol=1e-5, atol=1e-5)
