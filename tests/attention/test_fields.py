"""Each mechanism refuses impossible values when an instance is made."""

import re

import pytest

from attn_flax.attention import ATTENTION
from attn_flax.errors import UserError

WHOLE, ODD = 'choose a whole number from 1 to', 'choose an odd number from 1 to'
IMPOSSIBLE = [
  ('aa', {'heads': 0}, f'aa heads=0 is impossible; {WHOLE}'),
  ('aa', {'kernel': 2}, f'aa kernel=2 is impossible; {ODD}'),
  ('aa', {'min_key_dim': 0}, f'aa min_key_dim=0 is impossible; {WHOLE}'),
  ('aa', {'kappa': -0.1}, 'aa kappa=-0.1 is impossible'),
  ('aa', {'upsilon': 1.01}, 'aa upsilon=1.01 is impossible'),
  ('aa', {'implementation': 'block'}, "did you mean 'blocks'?"),
  ('additive', {'ratio': 0}, f'additive ratio=0 is impossible; {WHOLE}'),
  ('bam', {'ratio': -1}, 'bam ratio=-1'),
  ('bam', {'dilation': 0}, 'bam dilation=0 is impossible; choose a whole number from 1 to 1000'),
  ('bam', {'depth': 0}, f'bam depth=0 is impossible; {WHOLE}'),
  ('bam', {'combine': 'add'}, 'allowed: product, sum'),
  ('cbam', {'ratio': 2.5}, f'cbam ratio=2.5 is impossible; {WHOLE}'),
  ('cbam', {'kernel_size': 6}, f'cbam kernel_size=6 is impossible; {ODD}'),
  ('cbam', {'pools': ()}, 'cbam pools=() is empty; name at least one of avg, lp, lse, max'),
  ('cbam', {'pools': ('avg', 'men')}, "unknown cbam pools 'men'"),
  ('dual', {'ratio': 0}, 'dual ratio=0'),
  ('eca', {'kernel_size': 4}, f'eca kernel_size=4 is impossible; {ODD}'),
  ('eca', {'kernel_size': '3'}, "eca kernel_size='3' is impossible"),
  ('eca', {'kernel_size': (3, 5)}, 'eca kernel_size=(3, 5) is impossible'),
  ('eca', {'gamma': 0.0}, 'eca gamma=0.0 is impossible; choose a number from 0.001 to 1000'),
  ('hybrid', {'channel': 'ecaa'}, "did you mean 'eca'?"),
  ('hybrid', {'spatial': 'cbm'}, "did you mean 'cbam'?"),
  ('hybrid', {'ratio': 0}, 'hybrid ratio=0'),
  ('hybrid', {'position_ratio': 0}, 'hybrid position_ratio=0'),
  ('hybrid', {'dilation': 0}, 'hybrid dilation=0'),
  ('hybrid', {'hidden': True}, f'hybrid hidden=True is impossible; {WHOLE}'),
  ('hybrid', {'kernel_size': 0}, 'hybrid kernel_size=0'),
  ('non_local', {'ratio': 0}, 'non_local ratio=0'),
  ('non_local', {'kernel': 'dots'}, "did you mean 'dot'?"),
  ('non_local', {'subsample': 'first'}, 'allowed: after, before, none'),
  ('sasa', {'heads': 0}, f'sasa heads=0 is impossible; {WHOLE}'),
  (
    'sasa',
    {'kernel_size': 2},
    'sasa kernel_size=2 is impossible; choose an odd number from 1 to 31',
  ),
  ('sasa', {'stride': 3}, 'sasa stride=3'),
  ('sca', {'ratio': 0}, 'sca ratio=0'),
  ('sca', {'hidden': 0}, 'sca hidden=0'),
  ('se', {'ratio': 0}, f'se ratio=0 is impossible; {WHOLE}'),
  ('se', {'divisor': 0}, f'se divisor=0 is impossible; {WHOLE}'),
]


@pytest.mark.parametrize(('name', 'fields', 'text'), IMPOSSIBLE, ids=str)
def test_an_impossible_value_is_refused_with_what_is_allowed(name, fields, text):
  given = {'features': 32} if ATTENTION[name].where == 'conv' else {}
  with pytest.raises(UserError, match=re.escape(text)):
    ATTENTION[name](**{**given, **fields})


def test_no_mechanism_is_missing_here():
  assert {name for name, _, _ in IMPOSSIBLE} == set(ATTENTION)
