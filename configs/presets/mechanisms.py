"""The fields of every attention mechanism."""

# The fields of every mechanism with the defaults of its class. A field that is None takes a tuple;
# None applies the mechanism's own rule.
ATTENTION = {
  'aa': {
    'heads': 8,
    'kappa': 0.2,
    'upsilon': 0.1,
    'min_key_dim': 20,
    'relative': True,
    'pool': (False,),
    'implementation': 'blocks',
  },
  'additive': {'ratio': 16},
  'bam': {'ratio': 16, 'dilation': 4, 'depth': 2, 'combine': 'product', 'end_norm': False},
  'cbam': {
    'ratio': 16,
    'pools': ('avg', 'max'),
    'bias': True,
    'kernel_size': 7,
    'order': 'channel_first',
    'zero_init_spatial': True,
  },
  'dual': {'ratio': 8, 'energy': 'released'},
  'eca': {'kernel_size': None, 'gamma': 2.0, 'b': 1.0, 'circular': False},
  'hybrid': {
    'channel': 'eca',
    'spatial': 'cbam',
    'order': 'channel_first',
    'residual': False,
    'activation': 'sigmoid',
    'ratio': 16,
    'position_ratio': 8,
    'kernel_size': 7,
    'dilation': 4,
    'hidden': 8,
  },
  'non_local': {
    'kernel': 'embedded',
    'ratio': 2,
    'subsample': 'before',
    'scale': True,
    'zero_init': True,
  },
  'sasa': {'heads': 8, 'kernel_size': 7},
  'sca': {'order': 'channel_first', 'activation': 'softmax', 'ratio': 4, 'hidden': 8},
  'se': {'ratio': 16, 'bias': True, 'divisor': 1},
}
