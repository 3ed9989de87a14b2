"""Attention between pixels: values, gradients, and the memory that it takes."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.extend import core
from oracles import NORMALIZE, attention_loop

from attn_flax.attention import products
from attn_flax.errors import UserError

# Images, heads, and lengths of keys and values, all different, as are the sides of the grids.
N, HEADS, D, DV = 2, 3, 4, 5
# Grids of several blocks of three rows, of one row and of three rows, and of a single block.
GRIDS = [(6, 8), (7, 5), (9, 4), (4, 6)]
IMPLEMENTATIONS = ('direct', 'blocks', 'fused')


def _inputs(grid, relative, keys=None, seed=0):
  """Queries, keys, values, tables of relative positions (or none), and a cotangent."""
  rng = np.random.default_rng(seed)
  height, width = grid
  pixels = height * width

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  q, k = normal(N, HEADS, pixels, D), normal(N, HEADS, keys or pixels, D)
  v, cotangent = normal(N, HEADS, keys or pixels, DV), normal(N, HEADS, pixels, DV)
  tables = (normal(2 * height - 1, D), normal(2 * width - 1, D)) if relative else ()
  return (q, k, v, *tables), cotangent


def _attend(inputs, grid, **options):
  q, k, v, *tables = inputs
  relative = products.Relative(*tables) if tables else None
  return products.attend(q, k, v, grid, relative=relative, **options)


def _run(inputs, cotangent, grid, options):
  """Values and gradients with each of some options, in one program."""

  @jax.jit
  def run(inputs, cotangent):
    found = []
    for option in options:
      y, pull = jax.vjp(lambda *inputs, o=option: _attend(inputs, grid, **o), *inputs)
      found.append([y, *pull(cotangent)])
    return found

  return run(inputs, cotangent)


def _assert_same(found, expected):
  """Each array agrees to 1e-5 of its largest entry."""
  for got, wanted in zip(found, expected, strict=True):
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def _equations(jaxpr):
  """The equations of a program and of the programs that it calls."""

  def is_program(value):
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)

  for equation in jaxpr.eqns:
    yield equation
    for inner in filter(is_program, jax.tree.leaves(equation.params, is_leaf=is_program)):
      yield from _equations(getattr(inner, 'jaxpr', inner))


# --- values and gradients


@pytest.mark.parametrize(
  ('grid', 'relative'), [*((grid, True) for grid in GRIDS), ((7, 5), False)], ids=str
)
def test_every_implementation_has_the_values_and_gradients_of_the_loop(grid, relative):
  """The three implementations also agree with each other, to 1e-5."""
  inputs, cotangent = _inputs(grid, relative)
  options = [{'implementation': name} for name in IMPLEMENTATIONS]
  direct, blocks, fused = _run(inputs, cotangent, grid, options)
  y, _, gradients = attention_loop(*inputs[:3], grid, inputs[3:], cotangent=cotangent)
  _assert_same(direct, [y, *gradients])
  _assert_same(blocks, direct)
  _assert_same(fused, direct)


def test_keys_may_be_fewer_than_queries():
  """This is so where keys and values are pooled."""
  grid = (6, 8)
  inputs, cotangent = _inputs(grid, relative=False, keys=11)
  options = [{'implementation': name} for name in IMPLEMENTATIONS]
  y, _, gradients = attention_loop(*inputs, grid, cotangent=cotangent)
  for found in _run(inputs, cotangent, grid, options):
    _assert_same(found, [y, *gradients])


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_normalizations_match_the_loop(normalize):
  grid = (7, 5)
  inputs, cotangent = _inputs(grid, relative=True)
  function = getattr(products, normalize)
  options = [{'implementation': n, 'normalize': function} for n in ('direct', 'blocks')]
  y, _, gradients = attention_loop(*inputs[:3], grid, inputs[3:], normalize, cotangent)
  for found in _run(inputs, cotangent, grid, options):
    _assert_same(found, [y, *gradients])


def test_the_fused_kernel_refuses_other_normalizations():
  inputs, _ = _inputs((4, 6), relative=False)
  with pytest.raises(ValueError, match='softmax only'):
    _attend(inputs, (4, 6), implementation='fused', normalize=products.mean)


def test_fused_attention_is_lowered_for_gpus_with_their_kernel_or_refused():
  """In half precision it is cuDNN's kernel, which JAX traces only where it finds cuDNN."""
  grid = (4, 6)

  def lowered(dtype, platform):
    inputs = [jnp.asarray(a, dtype) for a in _inputs(grid, relative=True)[0]]
    run = jax.jit(lambda inputs: _attend(inputs, grid, implementation='fused'))
    unchecked = [export.DisabledSafetyCheck.custom_call('__cudnn$fmhaSoftmax')]
    exported = export.export(run, platforms=[platform], disabled_checks=unchecked)(inputs)
    return exported.mlir_module()

  for platform in ('cpu', 'tpu', 'rocm'):
    assert 'cudnn' not in lowered(jnp.bfloat16, platform)
  assert 'cudnn' not in lowered(jnp.float32, 'cuda')
  if jax.default_backend() == 'gpu':
    assert '__cudnn$fmhaSoftmax' in lowered(jnp.bfloat16, 'cuda')
  else:
    with pytest.raises(UserError, match=r"take implementation='blocks', or export"):
      lowered(jnp.bfloat16, 'cuda')


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_the_output_has_the_dtype_of_the_values(implementation):
  """Half precision stays near the loop, with weights and values rounded to steps of 2^-8."""
  grid = (6, 8)
  inputs = [jnp.asarray(a, jnp.bfloat16) for a in _inputs(grid, relative=True)[0]]
  y = jax.jit(lambda inputs: _attend(inputs, grid, implementation=implementation))(inputs)
  assert y.dtype == jnp.bfloat16
  expected, _, _ = attention_loop(*inputs[:3], grid, inputs[3:])
  errors, largest = np.abs(y.astype(np.float32) - expected), 2.0**-7
  if implementation == 'fused':
    # Scores of rows and columns become parts of the queries and are rounded too, by 2^-9 of them
    # each; weights change by as much, up and down.
    relative = products.Relative(*inputs[3:])
    scores = products._relative_scores(inputs[0], np.arange(48), grid, relative)
    largest += 2 * 2.0**-9 * sum(float(np.abs(part).max()) for part in scores)
  assert errors.max() <= largest * np.abs(expected).max()
  assert errors.mean() <= 2.0**-7 * np.abs(expected).mean()


def test_gradients_of_relative_positions_are_summed_in_their_own_precision():
  """Each vector belongs to many pairs, whose gradients are summed in float32."""
  grid = (6, 8)
  inputs, cotangent = _inputs(grid, relative=True)
  cotangent = jnp.asarray(cotangent, jnp.bfloat16)
  inputs = [*(jnp.asarray(a, jnp.bfloat16) for a in inputs[:3]), *map(jnp.asarray, inputs[3:])]

  def backward(inputs):
    return jax.vjp(lambda *inputs: _attend(inputs, grid), *inputs)[1](cotangent)

  program = jax.make_jaxpr(backward)(inputs)
  sums = [e for e in _equations(program.jaxpr) if e.primitive.name == 'scatter-add']
  assert [e.outvars[0].aval.dtype for e in sums] == [jnp.float32] * 2


# --- weights


@pytest.mark.parametrize('normalize', NORMALIZE)
@pytest.mark.parametrize('relative', [False, True], ids=['plain', 'relative'])
def test_weights_are_the_rows_of_the_queries(relative, normalize):
  """They have the order of the queries, with repetitions; softmax rows sum to 1."""
  grid, queries = (7, 5), np.array([34, 0, 12, 12, 5])
  (q, k, v, *tables), _ = _inputs(grid, relative)

  @jax.jit
  def weigh(q, k, queries, tables):
    table = products.Relative(*tables) if tables else None
    return products.weights(q, k, queries, grid, table, getattr(products, normalize))

  rows = weigh(q, k, queries, tables)
  y, weights, _ = attention_loop(q, k, v, grid, tables, normalize)
  _assert_same([rows, np.asarray(rows) @ v], [weights[:, :, queries], y[:, :, queries]])
  if normalize == 'softmax':
    np.testing.assert_allclose(rows.sum(-1), np.ones((N, HEADS, 5)), rtol=1e-6)


def test_weights_of_half_precision_are_exact():
  """Scores are summed and normalized in float32, so that no precision of the inputs is lost.

  A compiler may keep more precision than a program asks for, so the program itself is read, too.
  """
  grid = (7, 5)
  q, k, v, *tables = (jnp.asarray(a, jnp.bfloat16) for a in _inputs(grid, relative=True)[0])
  weigh = jax.jit(functools.partial(products.weights, grid=grid))
  inputs = q, k, np.arange(35)
  relative = products.Relative(*tables)
  rows = weigh(*inputs, relative=relative)
  program = jax.make_jaxpr(weigh)(*inputs, relative=relative)
  factors = [e for e in _equations(program.jaxpr) if e.primitive.name == 'dot_general']
  assert [e.outvars[0].aval.dtype for e in factors] == [jnp.float32] * 3
  assert rows.dtype == jnp.float32
  _assert_same([rows], [attention_loop(q, k, v, grid, tables)[1]])


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_permuted_pixels_permute_the_output_without_relative_positions(implementation):
  """Without relative positions attention is equivariant; with them it must not be."""
  grid = (6, 8)
  order = np.random.default_rng(3).permutation(48)
  run = jax.jit(lambda inputs: _attend(inputs, grid, implementation=implementation))

  def error(relative):
    (q, k, v, *tables), _ = _inputs(grid, relative)
    y = np.asarray(run((q, k, v, *tables)))[:, :, order]
    permuted = run((q[:, :, order], k[:, :, order], v[:, :, order], *tables))
    return np.abs(permuted - y).max() / np.abs(y).max()

  assert error(relative=False) < 1e-5
  assert error(relative=True) > 0.1


# --- memory

# Batch, heads, and lengths of keys and values per head.
BATCH, MANY_HEADS, KEY_DIM, VALUE_DIM = 8, 8, 20, 4


def _shapes(size, batch=BATCH):
  """Abstract inputs of a square map."""
  pixels = size * size
  shapes = [(batch, MANY_HEADS, pixels, d) for d in (KEY_DIM, KEY_DIM, VALUE_DIM)]
  shapes += [(2 * size - 1, KEY_DIM)] * 2
  return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def _forward_and_backward(size, implementation):
  def function(inputs, cotangent):
    attend = functools.partial(_attend, grid=(size, size), implementation=implementation)
    y, pull = jax.vjp(lambda *inputs: attend(inputs), *inputs)
    return y, pull(cotangent)

  return function


@functools.cache
def _compiled(size, implementation):
  """The compiled forward and backward pass, which never runs."""
  inputs = _shapes(size)
  return jax.jit(_forward_and_backward(size, implementation)).lower(inputs, inputs[2]).compile()


def _temporary(size, implementation):
  return _compiled(size, implementation).memory_analysis().temp_size_in_bytes


def _largest(sizes):
  return max(math.prod(size) for size in sizes)


def test_blocks_take_a_sixth_of_the_memory_of_the_direct_form():
  """Temporary memory of forward and backward pass at 28 x 28, by the compiler's own analysis."""
  assert 6 * _temporary(28, 'blocks') <= _temporary(28, 'direct')


def test_memory_of_blocks_grows_no_faster_than_the_power_of_one_and_a_half():
  """In the number of pixels, between neighboring sizes; the direct form grows with power 2."""

  def power(small, large, implementation):
    growth = _temporary(large, implementation) / _temporary(small, implementation)
    return math.log(growth) / math.log((large / small) ** 2)

  assert power(14, 28, 'blocks') <= 1.5
  assert power(28, 56, 'blocks') <= 1.5
  assert power(14, 28, 'direct') > 1.9


@pytest.mark.parametrize('size', [14, 28, 56])
def test_no_array_of_the_traced_blocks_holds_all_scores(size):
  """For one image, every array of the gradient's program is smaller than heads x (HW)^2."""
  scores = MANY_HEADS * size**4

  def largest(implementation):
    inputs = _shapes(size, batch=1)
    program = jax.make_jaxpr(_forward_and_backward(size, implementation))(inputs, inputs[2])
    return _largest(
      variable.aval.shape
      for equation in _equations(program.jaxpr)
      for variable in (*equation.invars, *equation.outvars)
    )

  assert largest('blocks') < scores
  assert largest('direct') >= scores  # The search finds what it looks for.


def test_no_array_of_the_compiled_blocks_holds_all_scores():
  """Even for a batch of 8, no array is as large as the scores of one image."""

  def largest(implementation):
    text = _compiled(28, implementation).as_text()
    shapes = re.findall(r'\b[a-z]+\d+\[([\d,]+)\]', text)
    return _largest([int(side) for side in shape.split(',')] for shape in shapes)

  assert largest('blocks') < MANY_HEADS * 28**4
  assert largest('direct') >= BATCH * MANY_HEADS * 28**4
