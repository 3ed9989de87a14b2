"""Independent float64 oracles of layers, gates and attention, in NumPy and with loops.

They use nothing of the library but the names of its variables.
"""

import flax.traverse_util
import numpy as np


class Oracle:
  """Plain layers that compute with a module's variables, and record which they used.

  Attributes:
    used: paths of the variables read so far.
    updated: the running statistics after this call.
    gates: the gates by name.
  """

  def __init__(self, variables, train):
    flat = flax.traverse_util.flatten_dict(variables, sep='/')
    self.variables = {path: np.asarray(value, np.float64) for path, value in flat.items()}
    self.train = train
    self.used = set()
    self.updated = {}
    self.gates = {}

  def has(self, path):
    return f'params/{path}' in self.variables

  def get(self, path, collection='params'):
    self.used.add(f'{collection}/{path}')
    return self.variables[f'{collection}/{path}']

  def dense(self, x, name):
    y = x @ self.get(f'{name}/kernel')
    return y + self.get(f'{name}/bias') if self.has(f'{name}/bias') else y

  def norm(self, x, name, momentum=0.9):
    rows = x.reshape(-1, x.shape[-1])
    mean, var = self.get(f'{name}/mean', 'batch_stats'), self.get(f'{name}/var', 'batch_stats')
    if self.train:
      batch_var = rows.var(0, ddof=1)
      self.updated[f'{name}/mean'] = momentum * mean + (1 - momentum) * rows.mean(0)
      self.updated[f'{name}/var'] = momentum * var + (1 - momentum) * batch_var
      mean, var = rows.mean(0), rows.var(0)
    normalized = (x - mean) / np.sqrt(var + 1e-5)
    return normalized * self.get(f'{name}/scale') + self.get(f'{name}/bias')

  def conv(self, x, name, dilation=1):
    """A convolution that keeps the size of the map: a sum over taps, zero outside the map."""
    kernel = self.get(f'{name}/kernel')
    taps = kernel.shape[0]
    n, height, width, _ = x.shape
    y = np.zeros((n, height, width, kernel.shape[-1]))
    for i in range(height):
      for j in range(width):
        for a in range(taps):
          for b in range(taps):
            row, column = i + dilation * (a - taps // 2), j + dilation * (b - taps // 2)
            if 0 <= row < height and 0 <= column < width:
              y[:, i, j] += x[:, row, column] @ kernel[a, b]
    return y + self.get(f'{name}/bias') if self.has(f'{name}/bias') else y


def sigmoid(logits):
  return 1 / (1 + np.exp(-logits))


def relu(x):
  return np.maximum(x, 0)


def pooled(x, kind):
  """[N, H, W, C] -> [N, C], one channel of one image at a time."""
  y = np.zeros((x.shape[0], x.shape[-1]))
  for n in range(x.shape[0]):
    for c in range(x.shape[-1]):
      pixels = x[n, :, :, c].ravel()
      y[n, c] = {
        'avg': lambda p: p.sum() / p.size,
        'max': lambda p: p.max(),
        'lp': lambda p: np.sqrt((p**2).sum()),
        'lse': lambda p: np.log(np.exp(p).sum()),
      }[kind](pixels)
  return y


def channel_mlp(o, x, name='channel', pools=('avg',), norm=False, end_norm=False):
  """[N, C]; the hidden norm, where there is one, sees all pools as one batch."""
  hidden = np.stack([o.dense(pooled(x, pool), f'{name}/reduce') for pool in pools])
  if norm:
    hidden = o.norm(hidden, f'{name}/norm')
  logits = sum(o.dense(relu(h), f'{name}/expand') for h in hidden)
  return o.norm(logits, f'{name}/end_norm') if end_norm else logits


def channel_conv(o, x, circular):
  kernel = o.get('channel/conv/kernel')[:, 0, 0]
  means, (n, channels) = pooled(x, 'avg'), (x.shape[0], x.shape[-1])
  logits = np.zeros((n, channels))
  for c in range(channels):
    for tap in range(kernel.size):
      neighbor = c + tap - kernel.size // 2
      if circular:
        neighbor %= channels
      if 0 <= neighbor < channels:
        logits[:, c] += kernel[tap] * means[:, neighbor]
  return logits


def spatial_conv(o, x):
  """[N, H, W]."""
  maps = np.stack([x.max(-1), x.mean(-1)], -1)
  return o.norm(o.conv(maps, 'spatial/conv'), 'spatial/norm', momentum=0.99)[..., 0]


def spatial_dilated(o, x, depth, dilation, end_norm):
  """[N, H, W]."""
  y = relu(o.norm(o.conv(x, 'spatial/reduce'), 'spatial/reduce_norm'))
  for i in range(1, depth + 1):
    y = relu(o.norm(o.conv(y, f'spatial/conv{i}', dilation), f'spatial/norm{i}'))
  y = o.conv(y, 'spatial/expand')
  return (o.norm(y, 'spatial/end_norm') if end_norm else y)[..., 0]


def by_channel(o, x, logits):
  o.gates['channel_gate'] = sigmoid(logits)
  return x * sigmoid(logits)[:, None, None, :]


def by_pixel(o, x, logits):
  o.gates['spatial_gate'] = sigmoid(logits)
  return x * sigmoid(logits)[:, :, :, None]


def by_both(o, x, logits):
  o.gates['gate'] = sigmoid(logits)
  return x * sigmoid(logits)


def flat(x):
  """[N, H, W, C] -> [N, 1, H * W, C]: the pixels row by row, as one head."""
  return x.reshape(x.shape[0], 1, -1, x.shape[-1])


def conv_loop(x, kernel, stride, padding, dilation=1, groups=1):
  """A 2-D convolution of [N, H, W, C], one output pixel and group at a time, in float64."""
  taps_h, taps_w, _, features = kernel.shape
  pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  x = np.pad(x.astype(np.float64), pad)
  n, height, width, channels = x.shape
  height = (height - dilation * (taps_h - 1) - 1) // stride + 1
  width = (width - dilation * (taps_w - 1) - 1) // stride + 1
  y = np.zeros((n, height, width, features))
  into, out = channels // groups, features // groups
  for i in range(height):
    for j in range(width):
      for group in range(groups):
        for a in range(taps_h):
          for b in range(taps_w):
            pixel = x[:, i * stride + a * dilation, j * stride + b * dilation]
            inputs = pixel[:, group * into : (group + 1) * into]
            outputs = slice(group * out, (group + 1) * out)
            y[:, i, j, outputs] += inputs @ kernel[a, b, :, outputs]
  return y


def _softmax(scores):
  e = np.exp(scores - scores.max())
  return e / e.sum()


# How scores become weights, and how the gradient of the weights becomes that of the scores.
NORMALIZE = {
  'softmax': (_softmax, lambda scores, w, dw: w * (dw - w @ dw)),
  'mean': (lambda scores: scores / scores.size, lambda scores, w, dw: dw / scores.size),
  'relu_mean': (
    lambda scores: np.maximum(scores, 0) / scores.size,
    lambda scores, w, dw: dw * (scores > 0) / scores.size,
  ),
}


def attention_loop(q, k, v, grid, tables=None, normalize='softmax', cotangent=None):
  """Attention, one query at a time, and its gradients, derived by hand, in float64.

  Args:
    q: [N, heads, H * W, d].
    k: [N, heads, K, d].
    v: [N, heads, K, dv].
    grid: (H, W).
    tables: vectors [2 H - 1, d] of row offsets and [2 W - 1, d] of column offsets, or None.
    normalize: one of `NORMALIZE`.
    cotangent: [N, heads, H * W, dv], or None.

  Returns:
    Values [N, heads, H * W, dv], weights [N, heads, H * W, K], and the gradients of q, k, v and
    the tables (zeros without cotangent).
  """
  q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
  tables = [np.asarray(table, np.float64) for table in tables or ()]
  forward, backward = NORMALIZE[normalize]
  height, width = grid
  keys = range(k.shape[2])
  y, weights = np.zeros((*q.shape[:3], v.shape[-1])), np.zeros((*q.shape[:3], len(keys)))
  gradients = [np.zeros_like(a) for a in (q, k, v, *tables)]

  def offsets(query, key):
    """The indices of this pair's vectors in the two tables."""
    i, j = divmod(query, width)
    row, column = divmod(key, width)
    return row - i + height - 1, column - j + width - 1

  for n, h, query in np.ndindex(q.shape[:3]):
    asks = q[n, h, query]
    met = k[n, h].copy()
    for key in keys if tables else ():
      for table, offset in zip(tables, offsets(query, key), strict=True):
        met[key] += table[offset]
    scores = met @ asks
    w = forward(scores)
    weights[n, h, query] = w
    y[n, h, query] = w @ v[n, h]
    if cotangent is None:
      continue
    dy = np.asarray(cotangent[n, h, query], np.float64)
    dscores = backward(scores, w, v[n, h] @ dy)
    gradients[0][n, h, query] += dscores @ met
    gradients[1][n, h] += np.outer(dscores, asks)
    gradients[2][n, h] += np.outer(w, dy)
    for key in keys if tables else ():
      for table, offset in zip(gradients[3:], offsets(query, key), strict=True):
        table[offset] += dscores[key] * asks
  return y, weights, gradients
