"""What a network costs: parameters and multiply-adds, exactly, and honest timing."""

from attn_flax.costs.count import (
  Macs,
  abstract_variables,
  count_macs,
  count_operations,
  count_params,
  macs,
)

__all__ = [
  'Macs',
  'abstract_variables',
  'count_macs',
  'count_operations',
  'count_params',
  'macs',
]
