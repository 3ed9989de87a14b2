"""Softmax attention over channels, then over positions (Chen et al., CVPR 2017).

python main.py --config=configs/sca.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.branch = base.attention('sca')
  return config
