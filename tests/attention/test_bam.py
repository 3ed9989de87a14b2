"""BAM against a float64 oracle."""

import pytest
from against_oracle import assert_oracle, batch, both_modes
from oracles import by_both, channel_mlp, spatial_dilated

from attn_flax.attention import bam
from attn_flax.errors import UserError

RATIO = 6  # 4 hidden units


@both_modes
@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'combine': 'sum'},
    {'end_norm': True},
    {'combine': 'sum', 'end_norm': True, 'depth': 1},
    {'depth': 3, 'dilation': 2},
  ],
  ids=str,
)
def test_bam(randomized, fields, train):
  end_norm = fields.get('end_norm', False)

  def expect(o, x):
    channel = channel_mlp(o, x, norm=True, end_norm=end_norm)[:, None, None, :]
    spatial = spatial_dilated(o, x, fields.get('depth', 2), fields.get('dilation', 4), end_norm)
    spatial = spatial[:, :, :, None]
    total = channel + spatial if fields.get('combine') == 'sum' else channel * spatial
    return x + by_both(o, x, total)

  assert_oracle(randomized, bam.BAM(RATIO, **fields), expect, batch(), train=train)


def test_unknown_combinations_are_refused_with_the_allowed_ones():
  with pytest.raises(UserError, match='allowed: product, sum'):
    bam.BAM(RATIO, combine='add')
