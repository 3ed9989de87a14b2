"""Efficient channel attention in every block, adaptive kernel size (Wang et al., CVPR 2020).

Default network: 272,501 parameters, 40.8 M multiply-adds per image.
Default command: top-1 85.6 %, time per update x1.03.
Quick study: top-1 86.0 +- 0.4 %, 147 ms per update (x1.04).

    python main.py --config=configs/eca.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.branch = base.attention('eca', gamma=2.0, b=1.0)
  return config
