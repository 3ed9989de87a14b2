"""Non-local blocks after every second block of the middle stages (Wang et al., CVPR 2018).

Default network: 274,666 parameters, 41.7 M multiply-adds per image.
Default command: top-1 83.8 %, time per update x1.06.

    python main.py --config=configs/non_local.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.block = base.attention('non_local', every=base.every_second(config))
  return config
