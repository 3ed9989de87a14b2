"""Hybrid: self-attention between channels with additive attention over positions, in parallel.

Both parts ask the map itself instead of squeezing it through a fixed bottleneck; their logits are
added, so that either can open a gate that the other leaves closed.

Default network: 284,843 parameters, 41.6 M multiply-adds per image.

    python main.py --config=configs/dot_product_additive.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  ratio = 4 if base.thin(config) else 16
  config.model.attention.branch = base.attention(
    'hybrid', channel='dot_product', spatial='additive', order='parallel_sum', ratio=ratio
  )
  return config
