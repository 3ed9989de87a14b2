"""The checks of values that users set."""

import math

import pytest

from attn_flax.errors import UserError, check_choice, check_range


@pytest.mark.parametrize(
  ('value', 'bounds'),
  [
    (1, {'least': 1}),
    (0.0, {'least': 0, 'below': 1}),
    (1.0, {'least': 0, 'most': 1}),
    (1e-9, {'above': 0}),
    (3, {'least': 1, 'odd': True}),
    (2, {'whole': True}),
    (-7.5, {}),
  ],
)
def test_numbers_within_their_bounds_pass(value, bounds):
  check_range('field', value, **bounds)


@pytest.mark.parametrize(
  ('value', 'bounds', 'allowed'),
  [
    (0, {'least': 1, 'whole': True}, 'a whole number of at least 1'),
    (1.5, {'least': 1, 'whole': True}, 'a whole number of at least 1'),
    (True, {'least': 0, 'whole': True}, 'a whole number of at least 0'),
    (4, {'least': 1, 'odd': True}, 'an odd number of at least 1'),
    (1.0, {'least': 0, 'below': 1}, 'a number of at least 0 and below 1'),
    (0, {'above': 0}, 'a number above 0'),
    (1.1, {'least': 0, 'most': 1}, 'a number from 0 to 1'),
    (math.nan, {'least': 0}, 'a number of at least 0'),
    (math.inf, {'least': 0}, 'a number of at least 0'),
    ('3', {'least': 0}, 'a number of at least 0'),
    (None, {'least': 0}, 'a number of at least 0'),
    (math.nan, {}, 'a number'),
  ],
)
def test_other_values_are_refused_with_what_is_allowed(value, bounds, allowed):
  with pytest.raises(UserError) as caught:
    check_range('train.epochs', value, **bounds)
  assert str(caught.value) == f'train.epochs={value!r} is impossible; choose {allowed}'


def test_an_unknown_choice_names_the_nearest_one():
  check_choice('network', 'resnet20', ['resnet20'])
  with pytest.raises(UserError, match="unknown network 'resnet21'; did you mean 'resnet20'"):
    check_choice('network', 'resnet21', ['resnet20', 'wrn16_4'])
