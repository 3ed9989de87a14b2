"""Stand-alone self-attention against float64 loops."""

import numpy as np
import pytest
from against_oracle import assert_oracle, feature_maps, variable_shapes

from attn_flax.attention.sasa import StandAlone
from attn_flax.errors import UserError


def stand_alone(o, x, heads, features, size, stride):
  """The output and the weights over the whole map of x, one pixel and window at a time."""
  qkv = x @ o.get('qkv/kernel')[0, 0]
  rows, columns = o.get('relative_rows'), o.get('relative_columns')
  n, height, width, _ = x.shape
  d, reach = features // heads, size // 2
  y = np.zeros((n, height, width, features))
  weights = np.zeros((n, heads, height * width, height * width))
  for image, i, j, h in np.ndindex(n, height, width, heads):
    q, k, v = (slice(part * features + h * d, part * features + (h + 1) * d) for part in range(3))
    query = qkv[image, i, j, q]
    scores = {}
    for a, b in np.ndindex(size, size):
      at = i + a - reach, j + b - reach
      if 0 <= at[0] < height and 0 <= at[1] < width:
        place = np.concatenate([rows[a], columns[b]])
        scores[at] = query @ (qkv[image, *at, k] + place)
    total = sum(np.exp(score) for score in scores.values())
    for at, score in scores.items():
      weight = np.exp(score) / total
      weights[image, h, i * width + j, at[0] * width + at[1]] = weight
      y[image, i, j, h * d : (h + 1) * d] += weight * qkv[image, *at, v]
  if stride == 2:
    halves = np.zeros((n, -(-height // 2), -(-width // 2), features))
    for i, j in np.ndindex(halves.shape[1:3]):
      halves[:, i, j] = y[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
    y = halves
  return y, weights


@pytest.mark.parametrize(
  ('size', 'stride', 'height', 'width'),
  [(5, 1, 7, 4), (7, 1, 4, 3), (1, 1, 3, 4), (3, 2, 6, 4), (3, 2, 7, 5)],
)
def test_stand_alone_attention(randomized, size, stride, height, width):
  """With windows that reach outside the map or are larger than it, and strides on odd sizes."""
  module = StandAlone(18, stride, heads=3, kernel_size=size)
  queries = np.array([height * width - 1, 0, width, width])

  def expect(o, x):
    y, weights = stand_alone(o, x, 3, 18, size, stride)
    np.testing.assert_allclose(weights.sum(-1), 1)
    return y, weights

  assert_oracle(randomized, module, expect, feature_maps(height, width, 4), queries=queries)


@pytest.mark.parametrize(
  ('features', 'fields', 'text'),
  [
    (20, {'heads': 4}, 'multiple of 2 \\* heads'),
    (32, {'kernel_size': 4}, 'kernel_size=4 is impossible; choose an odd number'),
    (32, {'kernel_size': -1}, 'kernel_size=-1 is impossible'),
    (
      32,
      {'stride': 3},
      'stride=3 is impossible',
    ),
  ],
)
def test_stand_alone_attention_refuses_fields_that_do_not_fit(features, fields, text):
  with pytest.raises(UserError, match=text):
    variable_shapes(StandAlone(features, **fields), feature_maps())
