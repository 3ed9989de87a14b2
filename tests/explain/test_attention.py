"""Gates, weights and attention received, of every mechanism."""

import functools
import itertools

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attending import (
  CLASSES,
  FIELDS,
  GATED,
  GRIDS,
  NAMES,
  WEIGHTED,
  WIDTHS,
  H,
  N,
  W,
  images,
  network,
  vit,
)

from attn_flax import UserError, attention_maps, create_model, explain, layers
from attn_flax.models.vit import SelfAttention

pytestmark = pytest.mark.usefixtures('quick_compilation')


def test_every_mechanism_is_in_one_of_the_tables():
  assert sorted({*GATED, *WEIGHTED}) == NAMES


def _expected_shapes(name):
  shapes = {}
  if name in GATED:
    path, stages, gates = GATED[name]
    for stage, gate in itertools.product(stages, gates):
      full = {'channel_gate': (WIDTHS[stage],), 'spatial_gate': GRIDS[stage]}
      full['gate'] = (*GRIDS[stage], WIDTHS[stage])
      shapes[f'{path.format(stage)}/{gate}'] = (N, *full[gate])
  for path, (heads, queries, keys) in WEIGHTED.get(name, {}).items():
    shapes[f'{path}/weights'] = (N, heads, np.prod(queries), np.prod(keys))
  return shapes


@pytest.mark.parametrize('name', NAMES)
def test_maps_are_those_of_the_mechanism(name, explained):
  maps, received, own = explained(network(name), name)
  assert {path: value.shape for path, value in maps.items()} == _expected_shapes(name)
  weights = {p.removesuffix('/weights'): v for p, v in maps.items() if p.endswith('/weights')}
  for path, value in maps.items():
    assert value.dtype == np.float32 and 0 <= value.min() < value.max() <= 1, path
  for path, value in weights.items():
    np.testing.assert_allclose(value.sum(-1), 1, rtol=1e-5, err_msg=path)

  # Attention received is the mean over heads and queries. There are more queries than are computed
  # at a time, and not a multiple of that number.
  assert received.keys() == weights.keys()
  for path, value in received.items():
    keys = WEIGHTED[name][path][2]
    np.testing.assert_allclose(
      value, weights[path].mean((1, 2)).reshape(N, *keys), rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(value.sum((1, 2)), 1, rtol=1e-5)

  if name in ('eca', 'se'):
    assert own is None
  elif name in WEIGHTED:
    np.testing.assert_array_equal(own, list(received.values())[-1])
  else:
    path, stages, gates = GATED[name]
    gate = maps[f'{path.format(stages[-1])}/{gates[-1]}']
    np.testing.assert_allclose(own, gate if gate.ndim == 3 else gate.mean(-1), rtol=1e-6)


@pytest.mark.parametrize('name', ['cbam', 'bam'])
def test_gates_are_those_that_the_network_records(name, variables_for):
  """All gates, but not the outputs of the stages, which are recorded beside them."""
  model, x = network(name), images()
  run = jax.jit(lambda v: model.apply(v, x, train=False, mutable=['intermediates'])[1])
  recorded = flax.traverse_util.flatten_dict(run(variables_for(model))['intermediates'], sep='/')
  expected = {p: value for p, (value,) in recorded.items() if '/' in p}
  assert len(recorded) == len(expected) + 3
  found = attention_maps(model, variables_for(model), x)
  chex.assert_trees_all_close(found, expected, rtol=1e-5)


@pytest.mark.parametrize('name', WEIGHTED)
def test_some_queries_are_rows_of_all(name, variables_for, explained):
  model = network(name)
  queries = [5, 0, 23]
  found = attention_maps(model, variables_for(model), images(), queries=queries)
  expected = {path: value[:, :, queries] for path, value in explained(model, name)[0].items()}
  chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)


def test_the_weights_are_those_that_the_output_is_made_of(variables_for):
  """For position attention, gamma times the weighted sum of values is the module's output."""
  model, x = network('dual'), images()
  variables = variables_for(model)
  path = 'stage3_stage_attention/position'
  kept = lambda module, _: module.name in ('stage3_block1', 'position')  # noqa: E731
  run = jax.jit(lambda v: model.apply(v, x, train=False, capture_intermediates=kept)[1])
  recorded = flax.traverse_util.flatten_dict(run(variables)['intermediates'], sep='/')
  (received,), (output,) = recorded['stage3_block1/__call__'], recorded[f'{path}/__call__']

  params = jax.device_get(variables['params']['stage3_stage_attention']['position'])
  pixels = np.asarray(received).reshape(N, -1, 32)
  values = pixels @ params['value']['kernel'][0, 0] + params['value']['bias']
  everyone = range(pixels.shape[1])
  weights = attention_maps(model, variables, x, queries=everyone)[f'{path}/weights']
  expected = params['gamma'] * (weights[:, 0] @ values)
  np.testing.assert_allclose(output, expected.reshape(output.shape), rtol=1e-3, atol=1e-4)


def _traced(function, *args):
  return str(jax.make_jaxpr(function)(*args))


@pytest.mark.parametrize('name', ['aa', 'dual'])
def test_neither_training_nor_evaluation_stores_the_weights(name, variables_for):
  """Neither before nor after a call that returns weights."""
  model, variables, x = network(name), variables_for(network(name)), images()
  path, (_, queries, keys) = next(iter(WEIGHTED[name].items()))
  if np.prod(queries) <= 32:  # One block of queries holds all of them; larger maps are needed here.
    x = np.zeros((N, 4 * H, 4 * W, 3), np.float32)
    queries, keys = (tuple(4 * side for side in grid) for grid in (queries, keys))
  full = f'{np.prod(queries)},{np.prod(keys)}]'

  def loss(params, x):
    out, state = model.apply(
      {**variables, 'params': params}, x, train=True, mutable=['batch_stats', 'intermediates']
    )
    assert 'weights' not in str(state['intermediates'].keys())
    return out.sum()

  plain = functools.partial(model.apply, train=False)
  before = _traced(plain, variables, x), _traced(jax.grad(loss), variables['params'], x)
  assert not any(full in program for program in before)
  asked = _traced(
    functools.partial(attention_maps, model, queries={path: range(np.prod(queries))}), variables, x
  )
  assert full in asked
  after = _traced(plain, variables, x), _traced(jax.grad(loss), variables['params'], x)
  assert [len(program) for program in after] == [len(program) for program in before]


def test_attention_received_is_summed_without_storing_the_weights(variables_for):
  model = network('dual')
  x = np.zeros((N, 4 * H, 4 * W, 3), np.float32)
  run = functools.partial(explain.attention_received, model)
  program = _traced(run, variables_for(model), x)
  assert ',64,384]' in program and '384,384]' not in program


def test_other_queries_need_no_new_compilation(variables_for):
  traces = []

  class Counted(SelfAttention):
    def weights(self, x, queries):
      traces.append(queries)
      return super().weights(x, queries)

  model = _Sequence(Counted)
  variables = variables_for(model)
  for queries in ([0, 1], [4, 5], np.array([3, 3])):
    attention_maps(model, variables, images(), queries=queries)
  first = len(traces)
  attention_maps(model, variables, images(), queries=[2, 5])
  assert len(traces) == first


# Images with unequal sides, so that the number of queries alone does not decide their map. By case:
# the network, sides of the images, path, maps of the queries and of the keys, class tokens.
TALL, FIRST_OF_2 = (16, 5), 'stage2_block1/'
QUERY_GRIDS = {
  'aa': ('aa', TALL, FIRST_OF_2 + 'conv_attention', (8, 3), (8, 3), 0),
  'sasa': ('sasa', TALL, FIRST_OF_2 + 'conv_attention', TALL, TALL, 0),
  'non_local': ('non_local', TALL, FIRST_OF_2 + 'block_attention', (8, 3), (4, 1), 0),
  'dual': ('dual', TALL, 'stage2_stage_attention/position', (8, 3), (8, 3), 0),
  'vit': (vit(depth=1), (4, 12), 'block1/attention', (1, 3), (1, 3), 1),
}


@pytest.mark.parametrize('case', QUERY_GRIDS)
def test_a_place_has_the_weights_of_the_query_of_its_pixel(case, randomized):
  attention, sides, path, queries, keys, tokens = QUERY_GRIDS[case]
  model = attention
  if isinstance(attention, str):
    model = create_model(
      'resnet20',
      depths=(1, 1),
      widths=(8, 16),
      stem_width=8,
      num_classes=CLASSES,
      attention=attention,
      attention_kwargs={**FIELDS.get(attention, {}), 'stages': 2},
    )
  x = np.random.default_rng(3).normal(size=(N, *sides, 3)).astype(np.float32)
  init = functools.partial(model.init, train=False)
  variables = randomized(jax.eval_shape(init, jax.random.key(0), x))
  # The first and the last pixel, and the centers of two others.
  places = {(0.0, 0.0): (0, 0), (1.0, 1.0): (queries[0] - 1, queries[1] - 1)}
  for y, x_ in ((queries[0] // 2, queries[1] - 1), (queries[0] - 1, queries[1] // 2)):
    places[(y + 0.5) / queries[0], (x_ + 0.5) / queries[1]] = (y, x_)
  count = tokens + queries[0] * queries[1]

  @jax.jit
  def run(variables, x):
    everyone = attention_maps(model, variables, x, queries={path: np.arange(count)})
    found = [explain.attention_from(model, variables, x, place)[path] for place in places]
    return everyone[f'{path}/weights'], found

  weights, found = jax.device_get(run(variables, x))
  for (y, x_), values in zip(places.values(), found, strict=True):
    row = weights[:, :, tokens + y * queries[1] + x_].mean(1)[:, tokens:]
    np.testing.assert_allclose(values, row.reshape(N, *keys), rtol=1e-4, atol=1e-7)
  assert np.ptp(weights.mean(1), axis=1).max() > 1e-3  # Queries differ, or the test shows nothing.


@pytest.mark.parametrize('name', ['cbam', 'aa'])
def test_maps_are_float32_whatever_the_network_computes_in(name, variables_for):
  model = network(name, dtype='bfloat16')
  maps = functools.partial(attention_maps, model, queries=[1])
  own = functools.partial(explain.own_map, model)
  leaves = jax.tree.leaves([jax.eval_shape(f, variables_for(model), images()) for f in (maps, own)])
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}


class _Odd(nn.Module):
  """Attention over keys that form no map."""

  @nn.compact
  def __call__(self, x, *, train=False):
    return x

  def weights(self, x, queries):
    return jnp.full((len(x), 1, len(queries), 7), 1 / 7)


class _Sequence(nn.Module):
  """One attention module over tokens, in a network that names its stage."""

  attention: type[nn.Module]

  @nn.compact
  def __call__(self, x, *, train):
    x = layers.tap(self, 'stage1', x[:, ::8, ::8])
    x = self.attention(heads=1, name='own')(x.reshape(len(x), -1, 3))
    return nn.Dense(CLASSES, name='head')(x.mean(1))


def test_keys_that_form_no_map_have_weights_but_no_map(variables_for):
  model = network(_Odd)
  maps = attention_maps(model, variables_for(model), images(), queries=[0, 1])
  chex.assert_shape(maps['stage3_block1/branch_attention/weights'], (N, 1, 2, 7))
  with pytest.raises(UserError, match='the 7 keys of stage1_block1/branch_attention form no'):
    explain.attention_received(model, variables_for(model), images())


@pytest.mark.parametrize(
  ('queries', 'message'),
  [
    ([0, 24], r'query 24 .* stage3_block1/conv_attention; allowed: 0 to 23'),
    ([-1], r'query -1 .* allowed: 0 to 95'),
    ({'stage2_block1/conv_attention': [96]}, r'query 96 .* allowed: 0 to 95'),
    ({'stage2_block1/conv': [0]}, r"'stage2_block1/conv'; did you mean 'stage2_block1/conv_att"),
    ([(0, 1), (2, 3)], r'shape \(2, 2\) .* row \* width \+ column'),
    ([0.5], 'type float64'),
  ],
)
def test_queries_outside_the_map_are_refused(queries, message, variables_for):
  model = network('aa')
  with pytest.raises(UserError, match=message):
    attention_maps(model, variables_for(model), images(), queries=queries)


def test_a_mapping_of_queries_takes_only_the_modules_it_names(variables_for):
  model = network('aa')
  queries = {'stage2_block1/conv_attention': [95, 24]}
  maps = attention_maps(model, variables_for(model), images(), queries=queries)
  assert {p: v.shape for p, v in maps.items()} == {
    'stage2_block1/conv_attention/weights': (N, 2, 2, 96)
  }


def test_images_that_are_not_normalized_are_refused(variables_for):
  model = network('cbam')
  with pytest.raises(UserError, match='type uint8'):
    attention_maps(model, variables_for(model), images().astype(np.uint8))
