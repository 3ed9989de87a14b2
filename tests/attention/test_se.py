"""Squeeze-and-excitation and its gate against a float64 oracle, and the widths of such gates."""

import numpy as np
import pytest
from against_oracle import C, assert_oracle, batch, both_modes, feature_maps, variable_shapes
from oracles import by_channel, channel_mlp

from attn_flax.attention import bam, cbam, se
from attn_flax.errors import UserError

RATIO = 6  # 4 hidden units


@both_modes
@pytest.mark.parametrize(
  'fields',
  [
    {'pools': ('avg',)},
    {'pools': ('max', 'lp'), 'bias': False},
    {'pools': ('avg',), 'norm': True},
    {'pools': ('avg', 'max'), 'norm': True, 'end_norm': True},
  ],
  ids=str,
)
def test_channel_mlp(randomized, fields, train):
  """The logits, before any activation."""
  options = {key: fields[key] for key in fields if key != 'bias'}

  def expect(o, x):
    o.variables = {path.replace('/', '/channel/', 1): value for path, value in o.variables.items()}
    logits = channel_mlp(o, x, **options)
    o.updated = {path.removeprefix('channel/'): value for path, value in o.updated.items()}
    return logits[:, None, None, :]

  assert_oracle(randomized, se.ChannelMLP(RATIO, **fields), expect, batch(), train=train)


@both_modes
@pytest.mark.parametrize('fields', [{}, {'bias': False}, {'divisor': 8}], ids=str)
def test_se(randomized, fields, train):
  def expect(o, x):
    return by_channel(o, x, channel_mlp(o, x))

  assert_oracle(randomized, se.SE(RATIO, **fields), expect, batch(), train=train)


# Channels, ratio, divisor, hidden units: C // r, or the multiple of the divisor nearest to C / r.
HIDDEN = [
  (64, 16, 1, 4),
  (100, 16, 1, 6),
  (16, 16, 1, 1),
  (64, 16, 8, 8),
  (128, 16, 8, 8),
  (192, 16, 8, 16),
  (304, 16, 8, 16),
  (320, 16, 8, 24),
  (256, 16, 8, 16),
]


@pytest.mark.parametrize(('channels', 'ratio', 'divisor', 'hidden'), HIDDEN)
def test_se_has_the_hidden_width_of_its_ratio_and_divisor(channels, ratio, divisor, hidden):
  shapes = variable_shapes(se.SE(ratio, divisor=divisor), np.zeros((1, 2, 3, channels)))
  assert shapes['params']['channel']['reduce']['kernel'].shape == (channels, hidden)


@pytest.mark.parametrize('module', [se.SE, cbam.CBAM, bam.BAM])
def test_a_ratio_that_leaves_no_hidden_unit_is_refused(module):
  with pytest.raises(UserError, match=f'ratio=25 does not fit {C} channels'):
    variable_shapes(module(25), feature_maps())
  with pytest.raises(UserError, match='ratio=0 is impossible; choose a whole number from 1 to'):
    module(0)
