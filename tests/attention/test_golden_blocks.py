"""The attention modules against outputs of the papers' released PyTorch code.

Each file in `golden/blocks` holds what one released module, in evaluation mode, returned for an
input [N, C, H, W] and the gradient that it passed back (`dx`, for the `cotangent` of the output),
with its weights under their PyTorch names.
"""

import chex
import jax
import numpy as np
import pytest
from golden_blocks import BLOCKS, nhwc, variables_of

from attn_flax.attention import ATTENTION

CBAM_NAMES = {
  'ChannelGate.mlp.1': 'channel/reduce',
  'ChannelGate.mlp.3': 'channel/expand',
  'SpatialGate.spatial.conv': 'spatial/conv',
  'SpatialGate.spatial.bn': 'spatial/norm',
}
BAM_NAMES = {
  'channel_att.gate_c.gate_c_fc_0': 'channel/reduce',
  'channel_att.gate_c.gate_c_bn_1': 'channel/norm',
  'channel_att.gate_c.gate_c_fc_final': 'channel/expand',
  'spatial_att.gate_s.gate_s_conv_reduce0': 'spatial/reduce',
  'spatial_att.gate_s.gate_s_bn_reduce0': 'spatial/reduce_norm',
  'spatial_att.gate_s.gate_s_conv_di_0': 'spatial/conv1',
  'spatial_att.gate_s.gate_s_bn_di_0': 'spatial/norm1',
  'spatial_att.gate_s.gate_s_conv_di_1': 'spatial/conv2',
  'spatial_att.gate_s.gate_s_bn_di_1': 'spatial/norm2',
  'spatial_att.gate_s.gate_s_conv_final': 'spatial/expand',
}
# By file: the mechanism, its fields, and the name here of each PyTorch layer.
CASES = {
  'se_c64': ('se', {}, {'fc1': 'channel/reduce', 'fc2': 'channel/expand'}),
  'cbam_c64': ('cbam', {}, CBAM_NAMES),
  'cbam_channel_only_c64': ('cbam', {'order': 'channel_only'}, CBAM_NAMES),
  'cbam_pools_avg_max_lse_c32': ('cbam', {'pools': ('avg', 'max', 'lse')}, CBAM_NAMES),
  'bam_c64': ('bam', {}, BAM_NAMES),
  'eca_k3': ('eca', {'kernel_size': 3}, {'conv': 'channel/conv'}),
  'eca_k5': ('eca', {'kernel_size': 5}, {'conv': 'channel/conv'}),
}


@pytest.mark.parametrize('file', CASES)
def test_module_returns_what_the_released_code_returns(file):
  """Values and the gradient with respect to the input agree to 1e-5."""
  name, fields, names = CASES[file]
  golden = np.load(BLOCKS / f'{file}.npz')
  module, variables = ATTENTION[name](**fields), variables_of(golden, names)
  x, cotangent = nhwc(golden['x']), nhwc(golden['cotangent'])

  initial = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
  chex.assert_trees_all_equal_shapes_and_dtypes(initial, variables)

  @jax.jit
  def run(x):
    y, pull = jax.vjp(lambda x: module.apply(variables, x, train=False), x)
    return y, pull(cotangent)[0]

  y, dx = run(x)
  np.testing.assert_allclose(y, nhwc(golden['y']), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(dx, nhwc(golden['dx']), rtol=1e-5, atol=1e-5)
