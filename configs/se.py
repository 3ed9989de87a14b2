"""Squeeze-and-excitation in every block (Hu et al., CVPR 2018).

Default network: 280,958 parameters, 40.8 M multiply-adds per image.
Default command: top-1 80.8 %, time per update x1.04.
Quick study: top-1 85.2 +- 0.1 %, 147 ms per update (x1.02).

    python main.py --config=configs/se.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  # With the paper's ratio of 16, the first stage of a thin network has a single hidden unit.
  ratio = 4 if base.thin(config) else 16
  config.model.attention.branch = base.attention('se', ratio=ratio)
  return config
