"""Each mechanism and each of its parts refuse impossible values when an instance is made."""

import re

import pytest

from attn_flax.attention import ATTENTION
from attn_flax.attention.additive import AdditiveChannel, AdditiveSpatial
from attn_flax.attention.bam import SpatialDilated
from attn_flax.attention.cbam import SpatialConv
from attn_flax.attention.dot_product import DotProductChannel
from attn_flax.attention.dual import ChannelAttention, PositionAttention
from attn_flax.attention.eca import ChannelConv
from attn_flax.attention.hybrid import CHANNEL, SPATIAL, Hybrid
from attn_flax.attention.se import ChannelMLP
from attn_flax.errors import UserError

WHOLE, ODD = 'choose a whole number from 1 to', 'choose an odd number from 1 to'
IMPOSSIBLE = [
  ('aa', {'heads': 0}, f'heads=0 is impossible; {WHOLE}'),
  ('aa', {'kernel': 2}, f'kernel=2 is impossible; {ODD}'),
  ('aa', {'min_key_dim': 0}, f'min_key_dim=0 is impossible; {WHOLE}'),
  ('aa', {'kappa': -0.1}, 'kappa=-0.1 is impossible'),
  ('aa', {'upsilon': 1.01}, 'upsilon=1.01 is impossible'),
  ('aa', {'implementation': 'block'}, "did you mean 'blocks'?"),
  ('additive', {'ratio': 0}, f'ratio=0 is impossible; {WHOLE}'),
  ('bam', {'ratio': -1}, 'ratio=-1'),
  ('bam', {'dilation': 0}, 'dilation=0 is impossible; choose a whole number from 1 to 1000'),
  ('bam', {'depth': 0}, f'depth=0 is impossible; {WHOLE}'),
  ('bam', {'combine': 'add'}, 'allowed: product, sum'),
  ('cbam', {'ratio': 2.5}, f'ratio=2.5 is impossible; {WHOLE}'),
  ('cbam', {'kernel_size': 6}, f'kernel_size=6 is impossible; {ODD}'),
  ('cbam', {'pools': ()}, 'pools=() is empty; name at least one of avg, lp, lse, max'),
  ('cbam', {'pools': ('avg', 'men')}, "unknown pools 'men'"),
  ('dual', {'ratio': 0}, 'ratio=0'),
  ('eca', {'kernel_size': 4}, f'kernel_size=4 is impossible; {ODD}'),
  ('eca', {'kernel_size': '3'}, "kernel_size='3' is impossible"),
  ('eca', {'kernel_size': (3, 5)}, 'kernel_size=(3, 5) is impossible'),
  ('eca', {'gamma': 0.0}, 'gamma=0.0 is impossible; choose a number from 0.001 to 1000'),
  ('hybrid', {'channel': 'ecaa'}, "did you mean 'eca'?"),
  ('hybrid', {'spatial': 'cbm'}, "did you mean 'cbam'?"),
  ('hybrid', {'ratio': 0}, 'ratio=0'),
  ('hybrid', {'position_ratio': 0}, 'position_ratio=0'),
  ('hybrid', {'dilation': 0}, 'dilation=0'),
  ('hybrid', {'hidden': True}, f'hidden=True is impossible; {WHOLE}'),
  ('hybrid', {'kernel_size': 0}, 'kernel_size=0'),
  ('non_local', {'ratio': 0}, 'ratio=0'),
  ('non_local', {'kernel': 'dots'}, "did you mean 'dot'?"),
  ('non_local', {'subsample': 'first'}, 'allowed: after, before, none'),
  ('sasa', {'heads': 0}, f'heads=0 is impossible; {WHOLE}'),
  (
    'sasa',
    {'kernel_size': 2},
    'kernel_size=2 is impossible; choose an odd number from 1 to 31',
  ),
  ('sasa', {'stride': 3}, 'stride=3'),
  ('sca', {'ratio': 0}, 'ratio=0'),
  ('sca', {'hidden': 0}, 'hidden=0'),
  ('se', {'ratio': 0}, f'ratio=0 is impossible; {WHOLE}'),
  ('se', {'divisor': 0}, f'divisor=0 is impossible; {WHOLE}'),
]


@pytest.mark.parametrize(('name', 'fields', 'text'), IMPOSSIBLE, ids=str)
def test_an_impossible_value_is_refused_with_what_is_allowed(name, fields, text):
  given = {'features': 32} if ATTENTION[name].where == 'conv' else {}
  with pytest.raises(UserError, match=re.escape(text)):
    ATTENTION[name](**{**given, **fields})


def test_no_mechanism_is_missing_here():
  assert {name for name, _, _ in IMPOSSIBLE} == set(ATTENTION)


PARTS = [
  (AdditiveChannel, {'hidden': 0}),
  (AdditiveSpatial, {'ratio': 0}),
  (ChannelAttention, {'energy': 'max'}),
  (ChannelConv, {'kernel_size': 4}),
  (ChannelConv, {'gamma': 0.0}),
  (ChannelMLP, {'ratio': 0}),
  (ChannelMLP, {'pools': ('avg', 'men')}),
  (ChannelMLP, {'norm': 1}),
  (DotProductChannel, {'hidden': 2.5}),
  (PositionAttention, {'ratio': 0}),
  (SpatialConv, {'kernel_size': 6}),
  (SpatialConv, {'zero_init': None}),
  (SpatialDilated, {'dilation': 1001}),
  (SpatialDilated, {'depth': 0}),
]


@pytest.mark.parametrize(('part', 'fields'), PARTS, ids=str)
def test_a_part_refuses_an_impossible_value_by_itself(part, fields):
  (field,) = fields
  with pytest.raises(UserError, match=field):
    part(**fields)
  with pytest.raises(UserError, match='dtype=64 is impossible'):
    part(dtype=64)


def test_no_part_is_missing_here():
  made = [make(Hybrid())(parent=None) for make in (*CHANNEL.values(), *SPATIAL.values())]
  assert {part for part, _ in PARTS} == {type(part) for part in made}
