"""The checks of values that users set."""

import math

import numpy as np
import pytest

from attn_flax.errors import UserError, check_choice, check_flags, check_range, listed, nearest


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


@pytest.mark.parametrize(
  ('word', 'names', 'likely'),
  [
    ('CBAM', ['bam', 'cbam'], 'cbam'),
    ('GradCAM', ['grad_cam', 'grad_cam_plus_plus'], 'grad_cam'),
    ('cifar-10', ['cifar10', 'cifar100'], 'cifar10'),
    ('val', ['eval', 'validation'], 'validation'),
    ('resnext50', ['resnet50', 'resnext50_32x4d'], 'resnext50_32x4d'),
    ('resnet20x', ['resnet20', 'resnet200'], 'resnet20'),
    ('section', ['se'], None),
    ('ecaa', ['eca', 'eca_aa'], 'eca'),
    ('smok', ['smoke', 'folder'], 'smoke'),
    ('trian', ['train', 'cost'], 'train'),
  ],
)
def test_the_nearest_name_is_found_whatever_its_capitals(word, names, likely):
  assert nearest(word, names) == ([likely] if likely else [])


def test_no_list_of_names_is_long():
  assert listed(['a', 'b']) == 'a, b'
  assert listed(list('abcdefghij')) == 'a, b, c, d, e, f, g, h and 2 more'


def test_a_boolean_of_numpy_is_one():
  check_flags(bias=np.True_)
  with pytest.raises(UserError, match='bias=1 is impossible'):
    check_flags(bias=1)
