"""Hybrid: self-attention between channels with additive attention over positions, in parallel.

Both parts compute their gates by comparing queries and keys of the feature map, instead of passing
its means through a bottleneck. Their logits are added, so that a high logit of one part can open a
gate that the other part alone would close.

Default network: 284,843 parameters, 41.6 M multiply-adds per image.
Default command: top-1 85.9 %, time per update x1.34.

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
