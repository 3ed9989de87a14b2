"""Hybrid: ECA in every block, BAM after every stage but the last.

ECA weighs the channels inside each block; BAM adds a spatial gate with a wide receptive field
before the resolution is reduced.

Default network: 275,107 parameters, 41.5 M multiply-adds per image.
Default command: top-1 26.4 %, time per update x1.13.

    python main.py --config=configs/eca_bam.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.branch = base.attention('eca')
  ratio = 4 if base.thin(config) else 16
  config.model.attention.stage = base.attention('bam', ratio=ratio)
  return config
