"""The baseline without attention: ResNet-20 of He et al. (CVPR 2016, section 4.2).

Default network: 272,474 parameters, 40.8 M multiply-adds per image.
Default command: top-1 84.5 %, time per update x1.00.
Quick study: top-1 84.5 +- 1.0 %, 142 ms per update (x1.00).

    python main.py --config=configs/resnet.py
"""

from configs import base


def get_config(arg=''):
  return base.get_config(arg)
