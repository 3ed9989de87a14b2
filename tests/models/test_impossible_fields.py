"""Impossible values are refused when a network is built, each with what is allowed."""

import pytest

from attn_flax import UserError, create_model

NETWORK = {
  'num_classes': {'num_classes': 0},
  'stem width': {'stem_width': 0},
  'no depth': {'depths': (0, 1, 1)},
  'negative depth': {'depths': (-1, 1, 1)},
  'no width': {'widths': (0, 8, 8)},
  'share': {'dropout': 1.5},
  'drop path': {'drop_path': -1.0},
  'all dropped': {'drop_path': 1.0},
  'no such stage': {'frozen': (7,)},
  'groups of basic blocks': {'groups': 2},
  'lengths': {'depths': (1, 1)},
}
ATTENTION = {
  'se': [{'ratio': 0}, {'divisor': 0}, {'ratio': 1.5}],
  'eca': [{'gamma': 0.0}, {'kernel_size': 4}, {'kernel_size': 'x'}, {'kernel_size': (3, 5)}],
  'cbam': [{'kernel_size': 6}, {'kernel_size': 0}, {'pools': ()}, {'pools': ('avg', 'mean')}],
  'bam': [{'dilation': 0}, {'depth': -1}, {'every': 2}],
  'sasa': [{'heads': 0}, {'kernel_size': 2}],
  'sca': [{'hidden': 0}],
  'non_local': [{'every': 9}, {'every': 0}],
}


@pytest.mark.parametrize('case', NETWORK)
def test_impossible_fields_of_a_network_are_refused(case):
  with pytest.raises(UserError):
    create_model(
      'resnet20',
      num_classes=NETWORK[case].get('num_classes', 10),
      **{key: value for key, value in NETWORK[case].items() if key != 'num_classes'},
    )


@pytest.mark.parametrize('field', ['zero_init_last', 'branch_relu'])
def test_fields_that_do_nothing_in_a_block_are_refused(field):
  with pytest.raises(UserError, match='does nothing'):
    create_model('wrn16_4', **{field: True})


@pytest.mark.parametrize(
  ('name', 'fields'), [(name, fields) for name, cases in ATTENTION.items() for fields in cases]
)
def test_impossible_fields_of_a_mechanism_are_refused(name, fields):
  with pytest.raises(UserError):
    import jax.numpy as jnp

    from attn_flax.costs.count import abstract_variables

    model = create_model('resnet20', attention=name, attention_kwargs=fields)
    abstract_variables(model, jnp.zeros((32, 32, 3)).shape)


def test_images_of_another_size_than_the_relative_vectors_are_refused():
  """The vectors of relative positions fit one size of feature maps."""
  import jax
  import jax.numpy as jnp

  model = create_model(
    'resnet20', attention='aa', attention_kwargs={'heads': 2, 'upsilon': 0.5}, depths=(1, 1, 1)
  )
  shapes = jax.eval_shape(
    lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0)
  )
  with pytest.raises(UserError, match='were made for size 16'):
    jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, 48, 48, 3)), train=False), shapes)
