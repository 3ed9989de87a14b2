"""Attention-augmented convolution in all stages but the first (Bello et al., ICCV 2019).

Default network: 262,098 parameters, 45.4 M multiply-adds per image.
Quick study: top-1 82.0 +- 2.1 %, 382 ms per update (x2.71).

    python main.py --config=configs/aa.py
"""

from configs import base


def fields(config):
  """The fields of augmented convolutions that suit a network."""
  if not base.thin(config):
    return {}
  # The paper's shares and heads would leave a thin network's values less than one dimension a head,
  # and its least key dimensions, 20 a head, would be more than the map has channels.
  return {'heads': 4, 'kappa': 0.5, 'upsilon': 0.25, 'min_key_dim': 1}


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.conv = base.attention('aa', **fields(config))
  return config
