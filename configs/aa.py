"""Attention-augmented convolution in all stages but the first (Bello et al., ICCV 2019).

python main.py --config=configs/aa.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  # The paper's shares and heads would leave a thin network's values less than one dimension a head,
  # and its least key dimensions, 20 a head, would be more than the map has channels.
  shares = {'heads': 4, 'kappa': 0.5, 'upsilon': 0.25, 'min_key_dim': 1}
  shares = shares if base.thin(config) else {}
  config.model.attention.conv = base.attention('aa', **shares)
  return config
