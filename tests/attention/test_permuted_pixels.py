"""Mechanisms that know no positions: permuted pixels permute their output."""

import numpy as np
import pytest
from against_oracle import C, H, N, W, assert_close, feature_maps, variable_shapes
from quick_jit import jit

from attn_flax.attention import cbam, dual, eca, non_local, sca, se


@pytest.mark.parametrize(
  'module',
  [
    se.SE(6),
    eca.ECA(),
    cbam.CBAM(6, order='channel_only'),
    dual.Dual(),
    non_local.NonLocal(subsample='none'),
    sca.SCA(),
  ],
  ids=lambda module: type(module).__name__,
)
def test_permuted_pixels_permute_the_output(randomized, module):
  x, order = 0.5 * feature_maps(), np.random.default_rng(1).permutation(H * W)

  def permute(x):
    return np.asarray(x).reshape(N, H * W, C)[:, order].reshape(N, H, W, C)

  variables = randomized(variable_shapes(module, x))
  run = jit(lambda v, x: module.apply(v, x, train=False))
  assert_close(run(variables, permute(x)), permute(run(variables, x)))
