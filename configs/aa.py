"""Attention-augmented convolution in all stages but the first (Bello et al., ICCV 2019).

Default network: 262,098 parameters, 45.4 M multiply-adds per image.
Quick study: top-1 82.0 +- 2.1 %, 382 ms per update (x2.71).

    python main.py --config=configs/aa.py
"""

from configs import base


def fields(config):
  """The fields of augmented convolution for a config's network; {} for the defaults."""
  if not base.thin(config):
    return {}
  # With the paper's shares and 8 heads, a thin network has less than one value dimension per head,
  # and the paper's least 20 key dimensions per head are more than its feature maps have channels.
  return {'heads': 4, 'kappa': 0.5, 'upsilon': 0.25, 'min_key_dim': 1}


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.conv = base.attention('aa', **fields(config))
  return config
