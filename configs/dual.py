"""Dual attention, between positions and between channels, after the last stage.

Fu et al., CVPR 2019.

Default network: 277,676 parameters, 42.0 M multiply-adds per image.
Default command: top-1 73.2 %, time per update x1.03.

    python main.py --config=configs/dual.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.stage = base.attention('dual')
  return config
