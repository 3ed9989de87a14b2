"""What `create_model` takes, and the mistakes that it names."""

import re

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from network_shapes import TINY, module_paths, variables_of
from own_mechanisms import OwnGate, Pooled
from quick_jit import jit

from attn_flax import UserError, create_model
from attn_flax.attention import se


def test_a_name_a_class_and_a_mapping_make_equal_networks():
  """So does a mapping from a file, whose tuples have become lists."""
  entry = {'name': 'se', 'stages': [1, 2, 3], 'every': 1, 'ratio': 4}
  models = [
    create_model('resnet20', attention='se', attention_kwargs={'ratio': 4}, **TINY),
    create_model('resnet20', attention=se.SE, attention_kwargs={'ratio': 4}, **TINY),
    create_model('resnet20', attention={'branch': {**entry, 'stages': None}}, **TINY),
    create_model('resnet20', attention={'branch': {**entry, 'name': se.SE}}, **TINY),
    create_model(
      'resnet20',
      attention={'branch': entry},
      **{key: list(value) if key != 'num_classes' else value for key, value in TINY.items()},
    ),
  ]
  assert len(set(models)) == 1


def test_an_empty_mapping_is_the_plain_network():
  assert create_model('resnet20', attention={}) == create_model('resnet20')


def test_a_users_own_class_acts_in_every_block_and_takes_its_fields(randomized):
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  logits = {}
  for temperature in (1.0, 5.0):
    kwargs = {'temperature': temperature}
    model = create_model('resnet20', attention=OwnGate, attention_kwargs=kwargs, **TINY)
    variables = randomized(variables_of(model))
    assert len(module_paths(model, 'branch_attention')) == 6
    chex.assert_shape(variables['params']['stage3_block1']['branch_attention']['scale'], (64,))
    run = jit(lambda v, x, m=model: m.apply(v, x, train=False))
    logits[temperature] = run(variables, images)
  chex.assert_shape(logits[1.0], (2, 5))
  assert not np.allclose(logits[1.0], logits[5.0])


MISTAKES = {
  'model': (('resnet49',), {}, "unknown model 'resnet49'; did you mean 'resnet44'?"),
  'field': (('resnet50',), {'num_class': 10}, "did you mean 'num_classes'?"),
  'attention field of the network': (('resnet50',), {'placements': ()}, 'allowed: block, depths'),
  'attention': (('resnet50',), {'attention': 'sse'}, "unknown attention 'sse'; did you mean 'se'?"),
  'field of the mechanism': (
    ('resnet50',),
    {'attention': 'se', 'attention_kwargs': {'ration': 8}},
    "unknown field of se 'ration'; did you mean 'ratio'? allowed: bias, divisor, ratio",
  ),
  'field of a class': (
    ('resnet50',),
    {'attention': OwnGate, 'attention_kwargs': {'ratio': 8}},
    "unknown field of OwnGate 'ratio'; allowed: temperature",
  ),
  'place': (
    ('resnet50',),
    {'attention': {'branches': {'name': 'se'}}},
    "place 'branches'; did you mean 'branch'? allowed: block, branch, conv, stage",
  ),
  'an instance': (
    ('resnet50',),
    {'attention': se.SE(ratio=8)},
    'attention must be a name, a module class or a mapping of places',
  ),
  'no name': (('resnet50',), {'attention': {'branch': {}}}, "attention at 'branch' has no name"),
  'refiner as a convolution': (
    ('resnet50',),
    {'attention': {'conv': {'name': 'se'}}},
    "se refines a feature map, so it cannot act at 'conv'; allowed: branch, block, stage",
  ),
  'convolution as a refiner': (
    ('resnet50',),
    {'attention': {'branch': {'name': Pooled}}},
    "Pooled replaces a convolution, so it cannot act at 'branch'; allowed: conv",
  ),
  'stage after the last': (
    ('resnet20',),
    {'attention': 'se', 'attention_kwargs': {'stages': (3, 4)}},
    'se asks for stages (3, 4), but the network has stages 1..3',
  ),
  'stage 0': (
    ('resnet20',),
    {'attention': 'se', 'attention_kwargs': {'stages': 0}},
    'se asks for stages (0,), but the network has stages 1..3',
  ),
  'no stage': (
    ('resnet20',),
    {'attention': 'se', 'attention_kwargs': {'stages': ()}},
    'se asks for stages ()',
  ),
  'every': (
    ('resnet20',),
    {'attention': 'se', 'attention_kwargs': {'every': 0}},
    'se every=0 meets no block',
  ),
  'impossible value of the mechanism': (
    ('resnet50',),
    {'attention': 'cbam', 'attention_kwargs': {'kernel_size': 6}},
    'cbam: kernel_size=6 is impossible; choose an odd number from 1 to 63',
  ),
  'values per stage': (
    ('resnet50',),
    {'attention': 'eca', 'attention_kwargs': {'kernel_size': (3, 5, 7)}},
    'eca kernel_size=(3, 5, 7) has 3 values for 4 stages; give one value, or one per stage',
  ),
  'kwargs without attention': (
    ('resnet50',),
    {'attention_kwargs': {'ratio': 8}},
    'attention_kwargs need an attention',
  ),
  'kwargs beside a mapping': (
    ('resnet50',),
    {'attention': {'branch': {'name': 'se'}}, 'attention_kwargs': {'ratio': 8}},
    'leave attention_kwargs out',
  ),
  'depths and widths': (
    ('resnet20',),
    {'depths': (1, 1)},
    'depths=(1, 1) and widths=(16, 32, 64) differ in length',
  ),
  'stem': (('resnet18',), {'stem': 'cifar10'}, "unknown stem 'cifar10'; did you mean 'cifar'?"),
  'stride_in': (('resnet18',), {'stride_in': '2x2'}, 'allowed: 1x1, 3x3'),
  'dtype': (('resnet18',), {'dtype': 'float16'}, 'allowed: bfloat16, float32'),
  'dtype beside attention': (
    ('resnet18',),
    {'dtype': 'float31', 'attention': 'se'},
    "unknown dtype 'float31'; did you mean 'float32'? allowed: bfloat16, float32",
  ),
  'depth of a WideResNet': (('wrn27_10',), {}, "'wrn27_10' names no WideResNet: its depth must be"),
  'start': (
    ('resnet50',),
    {'attention': 'se', 'attention_kwargs': {'start': 'zero'}},
    "unknown start 'zero'; allowed: identity, paper",
  ),
  'identity of a convolution': (
    ('resnet50',),
    {'attention': Pooled, 'attention_kwargs': {'start': 'identity'}},
    'Pooled replaces a convolution, so the network cannot start with what it computes without it',
  ),
  'ratio': (
    ('resnet20',),
    {'attention': 'se', 'attention_kwargs': {'ratio': 17}},
    'ratio=17 does not fit 16 channels: the ratio must lie in 1..16',
  ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_named_with_what_is_allowed(mistake):
  names, fields, text = MISTAKES[mistake]
  with pytest.raises(UserError, match=re.escape(text)):
    variables_of(create_model(*names, **fields))


@pytest.mark.parametrize(
  ('name', 'size', 'least'), [('resnet18', (64, 31), 32), ('resnet20', (3, 8), 4)]
)
def test_images_smaller_than_the_stride_are_refused(name, size, least):
  text = (
    f'images of {size[0]}x{size[1]} pixels are too small for this network, which takes {least}x'
  )
  with pytest.raises(UserError, match=text):
    variables_of(create_model(name), size)
  variables_of(create_model(name), (least, least))


def test_fields_that_the_network_sets_cannot_be_set_by_the_user():
  """The network sets features and stride of a module that replaces a convolution."""
  for field in ('features', 'stride', 'dtype'):
    with pytest.raises(UserError, match=f"unknown field of Pooled '{field}'"):
      create_model('resnet20', attention=Pooled, attention_kwargs={field: 1})


@pytest.mark.parametrize('name', ['resnet20', 'mnasnet_a1', 'vit_tiny32'])
@pytest.mark.parametrize(
  'dtype', ['bfloat16', jnp.bfloat16, jnp.dtype('bfloat16'), jnp.ones((), jnp.bfloat16).dtype]
)
def test_a_dtype_may_be_given_in_every_form(name, dtype):
  """The network keeps its name, as configs do, so that equal networks compare equal."""
  assert create_model(name, num_classes=2, dtype=dtype).dtype == 'bfloat16'
  create_model(name, num_classes=2).clone(dtype=dtype).check()


@pytest.mark.parametrize('dtype', [jnp.float16, 'float64', int, None, 3])
def test_other_dtypes_are_refused_by_name(dtype):
  with pytest.raises(UserError, match='unknown dtype .*allowed: bfloat16, float32'):
    create_model('resnet20', num_classes=2, dtype=dtype)
