"""What a mechanism's class declares, and the defaults where it declares nothing."""

import inspect

import flax.linen as nn
import pytest

from attn_flax.attention import ATTENTION
from attn_flax.attention.dual import ChannelAttention
from attn_flax.attention.mechanisms import CONV_LIKES, REFINERS
from attn_flax.attention.protocols import ConvLike, Traits, attends, starts_as_identity, traits
from attn_flax.attention.se import ChannelMLP


class _Plain(nn.Module):
  """A user's class that declares nothing."""

  weights: float = 1.0  # A field of this name is not a method.

  @nn.compact
  def __call__(self, x, *, train):
    return self.weights * x


class _Declaring(_Plain):
  where = 'block'
  default_stages = slice(2, None)
  default_every = 3
  per_stage = ('gain',)
  returns = 'map'
  starts_as_identity = True

  gain: float = 0.0


class _Asked(nn.Module):
  def weights(self, x, queries):
    return x[:, queries]


def test_a_class_that_declares_nothing_takes_the_defaults():
  assert traits(_Plain) == Traits() == ('branch', slice(None), 1, (), 'logits')
  assert not starts_as_identity(_Plain())
  assert not attends(_Plain())


def test_what_a_class_declares_is_read():
  assert traits(_Declaring) == ('block', slice(2, None), 3, ('gain',), 'map')
  assert starts_as_identity(_Declaring())
  assert attends(_Asked())


def test_every_mechanism_is_checked_against_its_protocol():
  """The type checker reads two lists, which hold each mechanism by its place."""
  assert {*REFINERS, *CONV_LIKES} == set(ATTENTION.values())
  assert {kind for kind in ATTENTION.values() if traits(kind).where == 'conv'} == set(CONV_LIKES)


@pytest.mark.parametrize('kind', [*REFINERS, *CONV_LIKES], ids=lambda kind: kind.__name__)
def test_every_mechanism_has_the_members_of_its_protocol(kind):
  """The type checker alone does not suffice: a Linen module may have any attribute for it."""
  is_conv_like = kind in CONV_LIKES
  module = kind(features=8) if is_conv_like else kind()
  assert isinstance(module, ConvLike) == is_conv_like
  parameters = inspect.signature(kind.__call__).parameters
  assert is_conv_like or parameters['train'].kind is inspect.Parameter.KEYWORD_ONLY
  extra = [p for p in list(parameters.values())[2:] if p.default is p.empty]
  assert [p.name for p in extra] in ([], ['train'])


def test_traits_of_built_in_mechanisms():
  assert traits(ATTENTION['non_local']) == ('block', slice(1, -1), 2, (), 'logits')
  assert traits(ATTENTION['eca']).per_stage == ('kernel_size',)
  assert traits(ChannelAttention).returns == 'map'
  assert traits(ChannelMLP).returns == 'logits'


@pytest.mark.parametrize(
  ('name', 'fields', 'expected'),
  [
    ('dual', {}, True),
    ('non_local', {}, True),
    ('non_local', {'zero_init': False}, False),
    ('se', {}, False),
    ('hybrid', {}, False),
    ('hybrid', {'channel': 'dual', 'spatial': 'position'}, True),
    ('hybrid', {'channel': 'dual', 'order': 'channel_only'}, True),
    ('hybrid', {'channel': 'dual', 'spatial': 'position', 'residual': True}, False),
  ],
)
def test_which_mechanisms_start_as_the_identity(name, fields, expected):
  assert starts_as_identity(ATTENTION[name](**fields)) == expected


def test_modules_that_attend_between_positions():
  asked = {name for name, kind in ATTENTION.items() if hasattr(kind, 'weights')}
  assert asked == {'aa', 'non_local', 'sasa'}  # In Dual a submodule attends.
