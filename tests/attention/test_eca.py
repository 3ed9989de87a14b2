"""Efficient channel attention against a float64 oracle, and its adaptive kernel size."""

import numpy as np
import pytest
from against_oracle import assert_oracle, batch, both_modes, variable_shapes
from oracles import by_channel, channel_conv

from attn_flax.attention import eca


@both_modes
@pytest.mark.parametrize('circular', [False, True], ids=['zeros', 'circular'])
@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7, None])
def test_eca(randomized, kernel_size, circular, train):
  def expect(o, x):
    return by_channel(o, x, channel_conv(o, x, circular))

  assert_oracle(randomized, eca.ECA(kernel_size, circular=circular), expect, batch(), train=train)


# The rule of the paper, by hand: log2(C) / 2 + 1 / 2 is 2.5, 3, 3.5, 4 (a tie), 4.5, 5, 5.5 and
# 6 (a tie); the nearest odd number, ties up.
ADAPTIVE = {16: 3, 32: 3, 64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7}


@pytest.mark.parametrize('channels', ADAPTIVE)
def test_adaptive_kernel_size_is_the_papers(channels):
  assert eca.adaptive_kernel_size(channels) == ADAPTIVE[channels]
  kernel = variable_shapes(eca.ECA(), np.zeros((1, 2, 3, channels)))['params']['channel']['conv'][
    'kernel'
  ]
  assert kernel.shape == (ADAPTIVE[channels], 1, 1)


@pytest.mark.parametrize(('gamma', 'b'), [(2, 1), (1, 1), (3, 2), (1.5, -4)])
def test_adaptive_kernel_size_is_the_nearest_odd_number(gamma, b):
  odd = np.arange(1, 31, 2)
  for channels in range(1, 3000):
    distance = np.abs(odd - abs((np.log2(channels) + b) / gamma))
    expected = max(odd[np.isclose(distance, distance.min(), atol=1e-9)])
    assert eca.adaptive_kernel_size(channels, gamma, b) == expected
