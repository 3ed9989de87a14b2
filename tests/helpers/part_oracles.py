"""Independent float64 oracles of the parts of mechanisms that attend, in NumPy and with loops.

A part `name` of a mechanism has variables below `name/`. See `oracles` for the other parts.
"""

import numpy as np
from oracles import attention_loop, flat, pooled, sigmoid


def position(o, x, name=''):
  """The map to be added, and the weights."""
  q, k, v = (flat(o.conv(x, f'{name}{part}')) for part in ('query', 'key', 'value'))
  y, weights, _ = attention_loop(q, k, v, x.shape[1:3])
  return o.get(f'{name}gamma') * y.reshape(x.shape), weights


def channels(o, x, energy='released', name=''):
  """The map to be added, by a softmax over the products of a channel with all channels."""
  y = np.zeros_like(x)
  for n, c in np.ndindex(x.shape[0], x.shape[-1]):
    products = np.array([(x[n, ..., c] * x[n, ..., other]).sum() for other in range(x.shape[-1])])
    if energy == 'released':
      products = -products
    weights = np.exp(products - products.max())
    y[n, ..., c] = x[n] @ (weights / weights.sum())
  return o.get(f'{name}gamma') * y


def additive_spatial(o, x, name=''):
  """[N, H, W]: one pixel at a time."""
  logits = np.zeros(x.shape[:3])
  query = o.dense(pooled(x, 'avg'), f'{name}query')
  for n, i, j in np.ndindex(logits.shape):
    hidden = np.tanh(o.dense(x[n, i, j], f'{name}key') + query[n])
    logits[n, i, j] = o.dense(hidden, f'{name}score')[0]
  return logits


def additive_channel(o, x, name=''):
  """[N, C]: one channel at a time, described by its mean and its maximum."""
  described = np.stack([pooled(x, 'avg'), pooled(x, 'max')], -1)
  logits = np.zeros((x.shape[0], x.shape[-1]))
  for n, c in np.ndindex(logits.shape):
    query = o.dense(described[n].mean(0), f'{name}query')
    own = o.get(f'{name}channel')[c]
    hidden = np.tanh(o.dense(described[n, c], f'{name}key') + own + query)
    logits[n, c] = o.dense(hidden, f'{name}score')[0]
  return logits


def dot_product_channel(o, x, name=''):
  """[N, C]: one pair of channels at a time."""
  described = np.stack([pooled(x, 'avg'), pooled(x, 'max')], -1)
  described = o.dense(described, f'{name}embed') + o.get(f'{name}channel')
  logits = np.zeros((x.shape[0], x.shape[-1]))
  for n, c in np.ndindex(logits.shape):
    query = o.dense(described[n, c], f'{name}query')
    scores = [query @ o.dense(other, f'{name}key') / np.sqrt(query.size) for other in described[n]]
    values = [o.dense(other, f'{name}value')[0] for other in described[n]]
    logits[n, c] = np.exp(scores) @ values / np.exp(scores).sum()
  return logits


def gate(o, x, kind, logits, activation='sigmoid'):
  """Multiplies x by a gate and keeps it; a softmax is multiplied by the number of its entries."""
  scale, values = 1, sigmoid(logits)
  if activation == 'softmax':
    values = np.exp(logits)
    values /= values.sum(tuple(range(1, values.ndim)), keepdims=True)
    scale = values[0].size
  o.gates[f'{kind}_gate'] = values
  return x * scale * (values[:, None, None, :] if kind == 'channel' else values[..., None])
