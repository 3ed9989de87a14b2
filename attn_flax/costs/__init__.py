"""What a network costs: exact counts of parameters and multiply-adds, and timing."""

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
