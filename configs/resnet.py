"""The baseline without attention: ResNet-20 of He et al. (CVPR 2016, section 4.2).

python main.py --config=configs/resnet.py
"""

from configs import base


def get_config(arg=''):
  return base.get_config(arg)
