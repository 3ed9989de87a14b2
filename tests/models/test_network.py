"""The interface of every network: its members, its checks, and its maps without a head."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_jit import jit

from attn_flax import UserError, count_macs, count_params, create_model
from attn_flax.models import MODELS, Network
from attn_flax.models.network import check_images
from attn_flax.models.placement import field_names

# One of each class and form, small enough to run: name, fields, side of the images.
SMALL = {
  'basic': ('resnet20', {'depths': (1, 1, 1), 'widths': (8, 16, 32)}, 16),
  'bottleneck': ('resnet50', {'depths': (1, 1), 'widths': (8, 16), 'stem': 'cifar'}, 16),
  'attention': ('resnet20', {'depths': (1, 1, 1), 'attention': 'eca'}, 16),
  'pre-activation': ('wrn16_4', {'depths': (1, 1, 1), 'widths': (8, 16, 32)}, 16),
  'mnasnet': ('mnasnet_a1', {'depths': (1,) * 7, 'width_multiplier': 0.25, 'stem': 'cifar'}, 16),
  'vit, token': ('vit_tiny32', {'width': 12, 'depth': 2, 'mlp_width': 8}, 16),
  'vit, mean': ('vit_tiny32', {'width': 12, 'depth': 2, 'mlp_width': 8, 'pool': 'mean'}, 16),
}
SLOW = ('mnasnet', 'bfloat16')  # Its convolutions take long to compile.
# The modules between the last feature map and the logits.
HEADS = {
  'mnasnet': {'head_conv', 'head_norm', 'head'},
  # The last block serves only the class token.
  'vit, token': {'block2', 'norm', 'head'},
  'vit, mean': {'norm', 'head'},
}


@pytest.mark.parametrize('name', MODELS)
def test_every_network_fulfills_the_protocol(name):
  """mypy alone does not suffice: for it, a Linen module has any attribute."""
  model = create_model(name)
  assert isinstance(model, Network)
  assert len(model.depths) == model.num_stages and all(depth >= 1 for depth in model.depths)
  assert model.frozen == () and model.attention == () and model.num_classes == 1000
  assert model.stride >= 1 and model.groups >= 1
  # Members of the interface that a config cannot set are no fields.
  assert not {'places', 'conv_stages', 'num_stages', 'stride'} & set(field_names(type(model)))


def _without_head(case, dtype='float32'):
  name, fields, size = SMALL[case]
  fields = {**fields, 'dtype': dtype}
  whole, backbone = (create_model(name, num_classes=n, **fields) for n in (5, None))
  return whole, backbone, (size, size, 3)


def _shapes(model, shape):
  return jax.eval_shape(
    lambda key: model.init(key, jnp.zeros((2, *shape)), train=False), jax.random.key(0)
  )


@pytest.mark.parametrize(
  ('case', 'dtype'),
  [
    pytest.param(case, dtype, marks=pytest.mark.slow if (case, dtype) == SLOW else ())
    for case in SMALL
    for dtype in ('float32', 'bfloat16')
  ],
)
def test_without_a_head_the_maps_are_those_that_a_network_records(case, dtype, randomized):
  whole, backbone, shape = _without_head(case, dtype)
  variables = randomized(_shapes(whole, shape))
  images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)

  @jit
  def run(variables, images):
    _, state = whole.apply(variables, images, train=False, mutable=['intermediates'])
    return backbone.apply(variables, images, train=False), state['intermediates']

  maps, recorded = run(variables, images)
  assert list(maps) == [f'stage{stage}' for stage in range(1, whole.num_stages + 1)]
  for name, found in maps.items():
    assert found.ndim == 4 and found.dtype == dtype
    np.testing.assert_array_equal(found, recorded[name][0])
  assert maps[f'stage{whole.num_stages}'].shape[1] == shape[0] // whole.stride


@pytest.mark.parametrize('case', SMALL)
def test_without_a_head_a_network_has_no_variables_of_it(case):
  whole, backbone, shape = _without_head(case)
  heads = HEADS.get(case, {'head'})
  expected = {
    path: leaf.shape
    for path, leaf in flax.traverse_util.flatten_dict(_shapes(whole, shape)).items()
    if path[1] not in heads
  }
  found = flax.traverse_util.flatten_dict(_shapes(backbone, shape))
  assert {path: leaf.shape for path, leaf in found.items()} == expected
  assert count_params(_shapes(backbone, shape)) < count_params(_shapes(whole, shape))
  assert 0 < count_macs(backbone, shape) < count_macs(whole, shape)


@pytest.mark.parametrize('case', SMALL)
def test_without_a_head_gradients_reach_every_parameter(case, randomized):
  _, backbone, shape = _without_head(case)
  variables = randomized(_shapes(backbone, shape))
  images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)

  @jit
  def gradients(params, rest, images):
    def loss(params):
      maps, _ = backbone.apply(
        {**rest, 'params': params},
        images,
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(0)},
      )
      return sum(
        (m.astype(jnp.float32) ** 2 * jnp.arange(m.size).reshape(m.shape)).sum()
        for m in maps.values()
      )

    return jax.grad(loss)(params)

  rest = {name: value for name, value in variables.items() if name != 'params'}
  found = flax.traverse_util.flatten_dict(gradients(variables['params'], rest, images), sep='/')
  idle = [path for path, gradient in found.items() if not np.abs(gradient).max() > 0]
  assert idle == []


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('resnet20', {'depths': (1, 0, 1)}, r'depths\[1\]=0 is impossible.*whole number from 1 to'),
    ('resnet20', {'widths': ()}, r'widths=\(\) is empty'),
    ('resnet20', {'drop_path': 1.0}, 'drop_path=1.0 is impossible.*below 1'),
    ('mnasnet_a1', {'num_classes': 0}, 'num_classes=0 is impossible'),
    ('mnasnet_a1', {'width_multiplier': float('nan')}, 'width_multiplier=nan is impossible'),
    ('vit_s16', {'heads': 5}, 'width=384 cannot be split into heads=5'),
    ('vit_s16', {'patch': 1.5}, 'patch=1.5 is impossible; choose a whole number'),
  ],
)
def test_every_network_checks_itself_when_it_is_created(name, fields, message):
  with pytest.raises(UserError, match=message):
    create_model(name, **fields)


@pytest.mark.parametrize(
  'shape', [(2, 3, 32, 32), (2, 1, 28, 28), (2, 3, 32, 48), (2, 4, 32, 32)], ids=str
)
def test_images_with_channels_first_are_told_from_small_ones(shape):
  with pytest.raises(UserError, match=r'look like \[N, C, H, W\], but must be \[N, H, W, C\]'):
    check_images(jnp.zeros(shape), 4, 'enlarge them')


@pytest.mark.parametrize(
  'shape', [(2, 32, 32, 3), (2, 32, 32, 1), (2, 4, 32, 4), (2, 4, 4, 8), (2, 4, 32, 12)], ids=str
)
def test_images_of_any_number_of_channels_are_taken(shape):
  check_images(jnp.zeros(shape), 4, 'enlarge them')


def test_numpy_values_are_taken_where_their_meaning_is_plain():
  for stages in (np.int64(1), np.array(1)):
    model = create_model('resnet20', attention='eca', attention_kwargs={'stages': stages})
    assert model.attention[0].stages == (1,)
  for stages in (np.array([1, 2]), range(1, 3), [np.int64(1), 2]):
    fields = {'stages': stages, 'every': np.int64(2)}
    model = create_model('resnet20', attention='eca', attention_kwargs=fields)
    assert model.attention[0].stages == (1, 2) and model.attention[0].every == 2
  model = create_model('resnet18', depths=np.array([1, 1, 1, 1]), zero_init_last=np.True_)
  assert model.depths == (1, 1, 1, 1) and model.zero_init_last is True
  hash(model)


def test_an_impossible_every_names_what_is_possible():
  fields = {'every': 7}
  with pytest.raises(UserError, match=r'choose 1 \(every block\)$'):
    create_model('resnet20', depths=(1, 1, 1), attention='eca', attention_kwargs=fields)


def test_the_nearest_attention_differs_in_capitals_alone():
  with pytest.raises(UserError, match="did you mean 'cbam'"):
    create_model('resnet20', attention='Cbam')
