"""Softmax attention over channels, then over positions (Chen et al., CVPR 2017).

Default network: 280,400 parameters, 41.0 M multiply-adds per image.
Default command: top-1 78.4 %, time per update x1.02.

    python main.py --config=configs/sca.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.branch = base.attention('sca')
  return config
