"""Hybrid: ECA in every block, BAM between the stages.

The two act at different places and look at different things: ECA weighs channels where features
are made, BAM adds a wide spatial view where resolution changes.

Default network: 275,107 parameters, 41.5 M multiply-adds per image.

    python main.py --config=configs/eca_bam.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.branch = base.attention('eca')
  ratio = 4 if base.thin(config) else 16
  config.model.attention.stage = base.attention('bam', ratio=ratio)
  return config
