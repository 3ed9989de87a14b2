"""Additive attention over positions in every block (the score of Bahdanau et al., ICLR 2015).

Default network: 280,715 parameters, 41.4 M multiply-adds per image.
Default command: top-1 83.7 %, time per update x1.12.

    python main.py --config=configs/additive.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  ratio = 4 if base.thin(config) else 16
  config.model.attention.branch = base.attention('additive', ratio=ratio)
  return config
