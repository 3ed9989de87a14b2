"""CBAM in every block: channel gate, then spatial gate (Woo et al., ECCV 2018).

Default network: 281,858 parameters, 41.2 M multiply-adds per image.
Default command: top-1 80.3 %, time per update x1.24.
Quick study: top-1 84.9 +- 0.5 %, 178 ms per update (x1.25).

    python main.py --config=configs/cbam.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  # With the paper's ratio of 16, the first stage of a thin network has a single hidden unit.
  ratio = 4 if base.thin(config) else 16
  config.model.attention.branch = base.attention('cbam', ratio=ratio)
  return config
