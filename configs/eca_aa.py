"""Hybrid: attention-augmented convolutions with ECA behind them.

An augmented convolution joins channels of two origins, convolved and attended; ECA lets the block
weigh one against the other at almost no cost.

Default network: 262,125 parameters, 45.4 M multiply-adds per image.

    python main.py --config=configs/eca_aa.py
"""

from configs import aa, base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.conv = base.attention('aa', **aa.fields(config))
  config.model.attention.branch = base.attention('eca')
  return config
