"""Hybrid: attention-augmented convolutions with ECA behind them.

An augmented convolution joins channels of two origins, convolved and attended; ECA lets the block
weigh one against the other at almost no cost.

    python main.py --config=configs/eca_aa.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  shares = {'heads': 4, 'kappa': 0.5, 'upsilon': 0.25} if base.thin(config) else {}
  config.model.attention.conv = base.attention('aa', **shares)
  config.model.attention.branch = base.attention('eca')
  return config
