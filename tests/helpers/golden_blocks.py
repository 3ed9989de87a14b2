"""Converts the weights of the golden PyTorch modules to those of Flax modules."""

import pathlib

BLOCKS = pathlib.Path(__file__).parents[1] / 'golden' / 'blocks'
KERNEL_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}
VECTORS = {
  'weight': ('params', 'scale'),
  'bias': ('params', 'bias'),
  'running_mean': ('batch_stats', 'mean'),
  'running_var': ('batch_stats', 'var'),
}
