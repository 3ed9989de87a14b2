"""Hybrid: SE in every block, non-local blocks in the middle stages.

SE reads one mean per channel of the whole feature map; the non-local blocks relate its positions.

Default network: 283,150 parameters, 41.7 M multiply-adds per image.
Default command: top-1 83.5 %, time per update x1.13.

    python main.py --config=configs/se_non_local.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  ratio = 4 if base.thin(config) else 16
  config.model.attention.branch = base.attention('se', ratio=ratio)
  config.model.attention.block = base.attention('non_local', every=base.every_second(config))
  return config
