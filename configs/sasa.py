"""Stand-alone self-attention in the last stage (Ramachandran et al., NeurIPS 2019).

The paper replaces the 3x3 convolutions of every stage of a bottleneck network, and finds that
attention helps most in the last stages.

Default network: 211,274 parameters, 39.4 M multiply-adds per image.
Default command: top-1 18.7 %, time per update x2.01.

    python main.py --config=configs/sasa.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.conv = base.attention(
    'sasa', heads=4, kernel_size=5, stages=base.last_stage(config)
  )
  return config
