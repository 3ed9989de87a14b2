"""BAM after every stage but the last (Park et al., BMVC 2018).

Default network: 275,080 parameters, 41.5 M multiply-adds per image.
Quick study: top-1 84.7 +- 0.9 %, 150 ms per update (x1.06).

    python main.py --config=configs/bam.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  # With the paper's ratio of 16, the first stage of a thin network has a single hidden channel.
  ratio = 4 if base.thin(config) else 16
  config.model.attention.stage = base.attention('bam', ratio=ratio)
  return config
