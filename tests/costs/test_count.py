"""Counts of small modules against counts by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from attn_flax import layers
from attn_flax.costs import count as cost
from attn_flax.layers import marks


class Network(nn.Module):
  """A network that computes a function of (module, x), so that it can be counted."""

  body: object

  @nn.compact
  def __call__(self, x, *, train):
    del train
    return self.body(self, x)


def _macs(body, shape):
  return cost.macs(Network(body), shape)


# Kernel, stride, dilation, groups; then by hand: output height and width, from a 9x7 map of 6
# channels to 4 channels.
CONVS = [
  (3, 1, 1, 1, 9, 7),
  (3, 2, 1, 1, 5, 4),
  (3, 2, 1, 2, 5, 4),
  (3, 1, 2, 1, 9, 7),
  (1, 1, 1, 1, 9, 7),
  (1, 2, 1, 1, 5, 4),
  (1, 1, 1, 2, 9, 7),
  (7, 1, 1, 1, 9, 7),
]


@pytest.mark.parametrize(('kernel', 'stride', 'dilation', 'groups', 'height', 'width'), CONVS)
def test_convolution(kernel, stride, dilation, groups, height, width):
  """Each output value takes kernel^2 * inputs / groups multiply-adds; biases are not counted."""

  def body(_, x):
    options = {'dilation': dilation, 'groups': groups, 'bias': True}
    return layers.conv(4, kernel, stride, name='conv', **options)(x)

  assert _macs(body, (9, 7, 6)) == (height * width * 4 * kernel**2 * 6 // groups, 0)


def test_a_large_kernel_counts_once_for_all_its_formulations():
  """9 * 7 pixels, 49 taps, 2 channels; the program has one formulation for CPUs and another."""

  def body(_, x):
    return layers.conv(1, 7, conv_general_dilated=layers.shifted_conv, name='conv')(x)

  assert _macs(body, (9, 7, 2)) == (9 * 7 * 49 * 2, 0)


def test_a_depthwise_convolution_counts_as_a_convolution():
  """9 * 7 pixels, 9 taps for each of 4 channels, although a CPU's program has no convolution."""

  def body(_, x):
    return layers.conv(4, 3, groups=4, conv_general_dilated=layers.depthwise_conv, name='conv')(x)

  assert _macs(body, (9, 7, 4)) == (9 * 7 * 9 * 4, 0)


def test_a_function_that_is_counted_as_something_else():
  """It counts as often as it runs: 3 times in a scan, once outside; its own operations do not."""
  matrix = jnp.ones((5, 5))
  product = marks.counted_as(lambda x: nn.relu(x @ matrix), attention=7, exp=2)

  def body(_, x):
    x = x.reshape(1, 5)
    x = lax.scan(lambda x, _: (product(x), None), x, None, length=3)[0]
    return product(x) @ matrix

  found = cost.count_operations(Network(body), (1, 1, 5))
  assert found == {'layers': 25, 'attention': 4 * 7, 'exp': 4 * 2}


def test_what_is_counted_as_something_else_is_computed_as_it_is():
  x = jnp.arange(5.0)
  np.testing.assert_array_equal(marks.counted_as(jnp.cumsum, layers=10**12)(x), jnp.cumsum(x))
  gradient = jax.grad(lambda x: marks.counted_as(jnp.prod, layers=1)(x))
  np.testing.assert_array_equal(gradient(x + 1), jax.grad(jnp.prod)(x + 1))


def test_convolution_in_one_dimension():
  """ECA's has 5 taps over 12 channels; taps on the zero padding count, too."""

  def body(_, x):
    return nn.Conv(1, (5,), padding=2, name='conv')(x.mean((1, 2))[..., None])

  assert _macs(body, (3, 2, 12)) == (12 * 5, 0)


def test_dense_layers_pools_norms_and_activations():
  """Only the dense layers count: 4 * 3 pixels of 6 -> 5 channels, then 5 -> 7 once."""

  def body(_, x):
    x = layers.BatchNorm(False, name='norm')(layers.dense(5, name='pixels')(x))
    x = layers.max_pool(nn.relu(x), 3, 1, 1) + nn.sigmoid(x)
    return layers.dense(7, name='head')(x.mean((1, 2)))

  assert _macs(body, (4, 3, 6)) == (4 * 3 * 6 * 5 + 5 * 7, 0)


def test_products_of_activations_are_counted_apart():
  """12 queries and keys of 6 channels in 2 heads: 12 * 12 * 6 for scores, as much for values."""

  def body(_, x):
    q = layers.dense(6, name='query')(x).reshape(-1, 12, 2, 3)
    with jax.named_scope(cost.ATTENTION_SCOPE):
      scores = jnp.einsum('nqhd,nkhd->nhqk', q, q)
    weights = jax.nn.softmax(scores)
    with jax.named_scope(cost.ATTENTION_SCOPE):
      return jax.jit(lambda w, v: jnp.einsum('nhqk,nkhd->nqhd', w, v))(weights, q)

  assert _macs(body, (4, 3, 5)) == (12 * 5 * 6, 2 * 12 * 12 * 6)


def test_products_with_relative_positions_are_attention_too():
  """`count_operations` tells them apart, in whatever order the two scopes are nested."""

  def body(_, x):
    x = x.reshape(1, 12, 5)
    with jax.named_scope(cost.ATTENTION_SCOPE):
      scores = x @ x.transpose(0, 2, 1)
      with jax.named_scope(cost.RELATIVE_SCOPE):
        return scores, x @ jnp.ones((5, 7))

  assert _macs(body, (4, 3, 5)) == (0, 12 * 12 * 5 + 12 * 5 * 7)
  found = cost.count_operations(Network(body), (4, 3, 5))
  assert found == {'attention': 12 * 12 * 5, 'relative': 12 * 5 * 7}


def test_exponentials_and_rectifiers_are_counted_by_element():
  """The softmax of a 12 x 12 matrix and the ReLU of 60 values count; a maximum is no ReLU."""

  def body(_, x):
    x = jnp.maximum(nn.relu(x), -1).reshape(1, 12, 5)
    return jax.nn.softmax(x @ x.transpose(0, 2, 1))

  found = cost.count_operations(Network(body), (4, 3, 5))
  assert found == {'layers': 12 * 12 * 5, 'exp': 144, 'relu': 60}


def test_a_scan_counts_its_body_times_its_length():
  """So does a scan in a scan: 3 * 4 products of 5 * 5 for one vector, in the scope and outside.

  `lax.map` and loops with a known number of steps are scans.
  """
  matrix = jnp.ones((5, 5))

  def inner(x, _):
    with jax.named_scope(cost.ATTENTION_SCOPE):
      return x @ matrix, None

  def outer(x, _):
    return lax.scan(inner, x @ matrix, None, length=4)

  def body(_, x):
    x = x.reshape(1, 5)
    return lax.scan(outer, x, None, length=3)[0]

  assert _macs(body, (1, 1, 5)) == (3 * 25, 3 * 4 * 25)

  def loop(_, x):
    x = lax.map(lambda row: row @ matrix, x.reshape(6, 5))
    return lax.fori_loop(0, 7, lambda _, x: x @ matrix, x)

  assert _macs(loop, (2, 3, 5)) == (6 * 25 + 7 * 6 * 25, 0)


def test_a_scope_around_a_loop_holds_for_its_body():
  def body(_, x):
    with jax.named_scope(cost.ATTENTION_SCOPE):
      return lax.map(lambda row: row @ jnp.ones((5, 5)), x.reshape(6, 5))

  assert _macs(body, (2, 3, 5)) == (0, 6 * 25)


def test_a_condition_counts_as_its_most_expensive_branch():
  def body(_, x):
    x = x.reshape(1, 5)
    many, few = jnp.ones((5, 50)), jnp.ones((5, 3))
    return lax.cond(x.sum() > 0, lambda: (x @ many).sum(), lambda: (x @ few).sum())

  assert _macs(body, (1, 1, 5)) == (250, 0)


def test_custom_gradients_and_recomputation_count_once():
  """Neither a custom gradient nor `jax.checkpoint` adds to the forward pass."""

  @jax.custom_vjp
  def product(x):
    return x @ jnp.ones((5, 5))

  product.defvjp(lambda x: (product(x), None), lambda _, g: (g @ jnp.ones((5, 5)),))

  @jax.custom_jvp
  def other(x):
    return x @ jnp.ones((5, 5))

  other.defjvp(lambda primals, tangents: (other(*primals), other(*tangents)))

  def body(_, x):
    return jax.checkpoint(product)(other(x.reshape(1, 5)))

  assert _macs(body, (1, 1, 5)) == (50, 0)


def test_a_loop_of_unknown_length_is_refused():
  def body(_, x):
    return lax.while_loop(lambda x: x.sum() < 10, lambda x: x @ jnp.ones((5, 5)), x.reshape(1, 5))

  with pytest.raises(ValueError, match='loop of unknown length'):
    _macs(body, (1, 1, 5))


def test_count_macs_is_the_sum_of_both_kinds():
  def body(_, x):
    x = layers.dense(6, name='dense')(x.reshape(1, 6, 5))
    with jax.named_scope(cost.ATTENTION_SCOPE):
      return x @ x.transpose(0, 2, 1)

  network = Network(body)
  assert cost.macs(network, (2, 3, 5)) == (6 * 5 * 6, 6 * 6 * 6)
  assert cost.count_macs(network, (2, 3, 5)) == 6 * 5 * 6 + 6 * 6 * 6


def test_count_params_takes_variables_or_parameters():
  """9 * 6 * 4 weights, 4 biases, 4 scales and 4 offsets count, running statistics do not."""

  def body(_, x):
    x = layers.conv(4, 3, bias=True, name='conv')(x)
    return layers.BatchNorm(False, name='norm')(x)

  shapes = cost.abstract_variables(Network(body), (5, 7, 6))
  assert {type(leaf) for leaf in jax.tree.leaves(shapes)} == {jax.ShapeDtypeStruct}
  arrays = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  for variables in (shapes, arrays):
    assert cost.count_params(variables) == 9 * 6 * 4 + 3 * 4
    assert cost.count_params(variables['params']) == 9 * 6 * 4 + 3 * 4
  assert isinstance(cost.count_params(arrays), int)


def test_counting_computes_nothing():
  """A network that is too large for memory can be counted."""

  def body(_, x):
    return layers.dense(10**7, name='dense')(x.reshape(1, -1))

  assert _macs(body, (1000, 1000, 3)) == (3 * 10**13, 0)
  assert (
    cost.count_params(cost.abstract_variables(Network(body), (1000, 1000, 3))) == 30000010000000
  )


@pytest.mark.parametrize('shape', [(8, 8, 3), [8, 8, 3], np.array([8, 8, 3])])
def test_the_shape_of_an_image_may_be_a_list_or_an_array(shape):
  counted = cost.macs(Network(lambda self, x: nn.Dense(2, parent=self)(x)), shape)
  assert counted == (8 * 8 * 3 * 2, 0)
