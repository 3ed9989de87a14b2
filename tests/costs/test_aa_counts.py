"""Parameters and multiply-adds of attention-augmented convolutions, against sums by hand."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from attn_flax.attention.aa import IMPLEMENTATIONS, AugmentedConv
from attn_flax.costs import count as cost

# Input (H, W, C) and fields; then by hand: dk and dv of all heads, and the map of the queries.
CASES = [
  # The three stages of the paper's ResNet-50, at its 8 heads and at least 20 key dimensions each.
  ((28, 28, 128), {'features': 128}, 160, 8, (28, 28)),
  ((14, 14, 256), {'features': 256}, 160, 24, (14, 14)),
  ((7, 7, 512), {'features': 512}, 160, 48, (7, 7)),
  ((14, 14, 256), {'features': 256, 'kappa': 0.75, 'upsilon': 0.75}, 192, 192, (14, 14)),
  ((7, 7, 512), {'features': 512, 'kappa': 1.0, 'upsilon': 1.0}, 512, 512, (7, 7)),
  # Other numbers of heads, inputs with fewer channels than outputs, maps that are not square.
  ((9, 6, 20), {'features': 50, 'heads': 3, 'min_key_dim': 4}, 12, 3, (9, 6)),
  ((9, 6, 20), {'features': 50, 'heads': 4, 'kappa': 0.9, 'upsilon': 0.5}, 80, 24, (9, 6)),
  ((9, 6, 20), {'features': 50, 'heads': 4, 'relative': False}, 80, 4, (9, 6)),
  # Strides and pooling make the map smaller, rounding up.
  ((9, 6, 20), {'features': 30, 'heads': 1, 'stride': 2}, 20, 3, (5, 3)),
  ((9, 6, 20), {'features': 30, 'heads': 1, 'pool': True}, 20, 3, (5, 3)),
  ((9, 6, 20), {'features': 30, 'heads': 1, 'pool': True, 'stride': 2}, 20, 3, (3, 2)),
  ((9, 6, 20), {'features': 30, 'kappa': 0.5, 'upsilon': 0.0}, 0, 0, (0, 0)),
]


class Network(nn.Module):
  """An augmented convolution called like a network, so that it can be counted."""

  conv: nn.Module

  @nn.compact
  def __call__(self, x, *, train):
    del train
    return self.conv(x)


@pytest.mark.parametrize(('shape', 'fields', 'key_dim', 'value_dim', 'grid'), CASES, ids=str)
def test_parameters_are_kernels_and_tables(shape, fields, key_dim, value_dim, grid):
  """A 3x3 convolution, two 1x1 convolutions, two tables that the heads share, and no biases."""
  channels, features, heads = shape[-1], fields['features'], fields.get('heads', 8)
  expected = 9 * channels * (features - value_dim)
  expected += channels * (2 * key_dim + value_dim) + value_dim * value_dim
  if fields.get('relative', True) and value_dim:
    expected += (2 * grid[0] - 1 + 2 * grid[1] - 1) * (key_dim // heads)
  variables = jax.eval_shape(
    AugmentedConv(**fields).init, jax.random.key(0), jnp.zeros((1, *shape))
  )
  assert cost.count_params(variables) == expected


def test_parameters_of_the_papers_last_stage_by_hand():
  """They are 9 x 512 x 464 + 512 x 368 + 48 x 48 + 26 x 20."""
  x = jnp.zeros((1, 7, 7, 512))
  variables = jax.eval_shape(AugmentedConv(512).init, jax.random.key(0), x)
  assert cost.count_params(variables) == 2_138_112 + 188_416 + 2_304 + 520


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
@pytest.mark.parametrize(('shape', 'fields', 'key_dim', 'value_dim', 'grid'), CASES, ids=str)
def test_multiply_adds_are_those_of_the_equations(
  shape, fields, key_dim, value_dim, grid, implementation
):
  """Layers, products and softmax entries each agree; blocks count as often as they run.

  Pooling, scaling up and operations that a kernel adds to the equations are not counted.
  """
  channels, features, stride = shape[-1], fields['features'], fields.get('stride', 1)
  full = math.prod(-(-side // stride) for side in shape[:2])
  pixels = math.prod(grid)
  layers = full * 9 * channels * (features - value_dim)
  layers += pixels * (channels * (2 * key_dim + value_dim) + value_dim * value_dim)
  attention = pixels * pixels * (key_dim + value_dim)
  relative = pixels * sum(grid) * key_dim if fields.get('relative', True) else 0
  module = Network(AugmentedConv(**fields, implementation=implementation))
  assert cost.macs(module, shape) == (layers, attention + relative)
  found = cost.count_operations(module, shape)
  assert (found['attention'], found['relative']) == (attention, relative)
  assert found['exp'] == fields.get('heads', 8) * pixels * pixels
