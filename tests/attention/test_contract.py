"""The contract of every built-in attention mechanism, tested for each name in `ATTENTION`.

Refiners are called `module(x, train=...)` and keep the shape; modules with `where = 'conv'` are
made with `features` and `stride` and called `module(x)`, like a convolution.
"""

import dataclasses
import inspect
import re
import sys

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from quick_jit import jit

from attn_flax.attention import ATTENTION
from attn_flax.models.placement import PLACES, field_names

N, H, W, C = 2, 6, 10, 64
FEATURES = 96


def _replaces(name):
  return ATTENTION[name].where == 'conv'


NAMES = sorted(ATTENTION)
REFINERS = [name for name in NAMES if not _replaces(name)]
each = parameterized.named_parameters((name, name) for name in NAMES)
# Biases without effect: the softmax after them cancels what is added to all its inputs.
CANCELLED: dict[str, set[str]] = {
  'dual': {'position/key/bias'},
  'non_local': {'phi/bias'},
  'sca': {'channel/score/bias', 'spatial/score/bias'},
}


def _make(name, stride=1, **fields):
  if _replaces(name):
    fields.update(features=FEATURES, stride=stride)
  return ATTENTION[name](**fields)


def _input(dtype=jnp.float32):
  rng = np.random.default_rng(1)
  means = rng.normal(size=(N, 1, 1, C))
  return jnp.asarray(means + rng.normal(size=(N, H, W, C)), dtype)


def _modes(module):
  """The keyword arguments of a call, for each mode that the module has."""
  if type(module).where == 'conv':
    return [{}]
  return [{'train': False}, {'train': True}]


def _mode(module):
  """The keyword arguments of a call in evaluation mode."""
  return _modes(module)[0]


def _shapes(module, x):
  return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **_mode(module)), x)


class ContractTest(chex.TestCase):
  @pytest.fixture(autouse=True)
  def _take_fixtures(self, randomized):
    self.randomized = randomized

  def _variables(self, module, x):
    """Random variables, so that no scale, gain or weight is 0."""
    return self.randomized(_shapes(module, x))

  @chex.variants(with_jit=True, without_jit=True)
  @each
  def test_shape_is_kept_and_values_are_finite(self, name):
    """For a feature map that is not square, in training and in evaluation."""
    self._assert_contract(name, jnp.float32, self.variant)

  @each
  def test_bfloat16_is_kept_and_parameters_stay_float32(self, name):
    self._assert_contract(name, jnp.bfloat16, jit)

  def _assert_contract(self, name, dtype, compile_or_not):
    module, x = _make(name, dtype=jnp.dtype(dtype)), _input(dtype)
    variables = self._variables(module, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    for mode in _modes(module):

      def run(variables, x, mode=mode):
        return module.apply(variables, x, **mode, mutable=['batch_stats'])

      y, updated = compile_or_not(run)(variables, x)
      chex.assert_shape(y, (N, H, W, FEATURES if _replaces(name) else C))
      assert y.dtype == dtype
      assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(updated))
      chex.assert_tree_all_finite((y, updated))

  @each
  def test_gradient_reaches_every_parameter_and_the_input(self, name):
    module, x = _make(name), _input()
    variables = self._variables(module, x)
    rest = {key: value for key, value in variables.items() if key != 'params'}

    @jit
    def gradients(params, x):
      def total(params, x):
        y = module.apply({'params': params, **rest}, x, **_mode(module))
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum()

      return jax.grad(total, (0, 1))(params, x)

    dparams, dx = gradients(variables['params'], x)
    chex.assert_tree_all_finite((dparams, dx))
    assert (np.abs(dx) > 0).mean() > 0.9
    largest = {
      path: float(np.abs(leaf).max())
      for path, leaf in flax.traverse_util.flatten_dict(dparams, sep='/').items()
    }
    noise = 1e-6 * max(largest.values())
    unreached = {path for path, value in largest.items() if value <= noise}
    assert unreached == CANCELLED.get(name, set())

  @parameterized.named_parameters((name, name) for name in REFINERS)
  def test_batch_statistics_change_in_training_only(self, name):
    module, x = _make(name), _input()
    variables = self._variables(module, x)

    def updated(train):
      run = jit(lambda v: module.apply(v, x, train=train, mutable=['batch_stats'])[1])
      return run(variables).get('batch_stats', {})

    stats = variables.get('batch_stats', {})
    chex.assert_trees_all_equal(updated(train=False), stats)
    after = updated(train=True)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, stats)
    for before, now in zip(jax.tree.leaves(stats), jax.tree.leaves(after), strict=True):
      assert (before != now).all()

  @each
  def test_gates_are_recorded_under_the_common_names(self, name):
    module, x = _make(name), _input()
    variables = self._variables(module, x)
    shapes = {'channel_gate': (N, C), 'spatial_gate': (N, H, W), 'gate': (N, H, W, C)}
    run = jit(lambda v: module.apply(v, x, **_mode(module), mutable=['intermediates'])[1])
    for gate, (value,) in run(variables).get('intermediates', {}).items():
      chex.assert_shape(value, shapes[gate])
      assert 0 <= value.min() < value.max() <= 1

  @each
  def test_variables_are_parameters_and_batch_statistics_only(self, name):
    shapes = _shapes(_make(name), _input())
    assert 'params' in shapes
    assert set(shapes) <= {'params', 'batch_stats'}


@pytest.mark.parametrize('name', [name for name in NAMES if _replaces(name)])
def test_a_replaced_convolution_has_the_output_size_of_a_convolution(name):
  """With stride 2, odd sizes round up."""
  module = _make(name, stride=2)
  x = jax.ShapeDtypeStruct((N, 7, 10, C), jnp.float32)
  y, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
  chex.assert_shape(y, (N, 4, 5, FEATURES))


@pytest.mark.parametrize('name', NAMES)
def test_modules_hash_and_compare_by_their_fields(name):
  """Networks hold them in static fields, so that equal networks share a compiled program."""
  assert hash(_make(name)) == hash(_make(name))
  assert _make(name) == _make(name)
  assert _make(name) != _make(name, dtype=jnp.dtype('bfloat16'))


@pytest.mark.parametrize('name', NAMES)
def test_class_says_where_it_acts(name):
  assert ATTENTION[name].where in PLACES
  assert isinstance(ATTENTION[name].default_stages, slice)
  assert set(getattr(ATTENTION[name], 'per_stage', ())) <= set(field_names(ATTENTION[name]))


@pytest.mark.parametrize('name', NAMES)
def test_fields_have_defaults(name):
  """A name alone makes a module; a convolution also needs its features and stride."""
  given = {'features', 'stride'} if _replaces(name) else set()
  required = {
    field.name
    for field in dataclasses.fields(ATTENTION[name])
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
  }
  assert required <= given


@pytest.mark.parametrize('name', NAMES)
def test_class_is_documented(name):
  """The docstrings have its departures from the paper, every field, and the paper's address."""
  cls = ATTENTION[name]
  text = inspect.getdoc(cls)
  departures = re.search(r'^Departures from the paper:\n((?:  .*\n|\n)+)', text, re.MULTILINE)
  assert departures and departures[1].strip()
  documented = re.findall(r'^  (\w+): ', text.partition('\nAttributes:\n')[2], re.MULTILINE)
  assert documented == field_names(cls)
  assert re.search(r'https://\S+', sys.modules[cls.__module__].__doc__)
