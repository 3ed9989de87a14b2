"""Hybrid: ECA's channel gate with CBAM's spatial gate.

CBAM's channel gate passes the channels through a bottleneck, which ECA's authors found to cost
accuracy; ECA has no spatial gate. Together the two gates take about a hundred parameters per block.

Default network: 273,401 parameters, 41.2 M multiply-adds per image.
Quick study: top-1 85.0 +- 0.3 %, 173 ms per update (x1.22).

    python main.py --config=configs/eca_cbam.py
"""

from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  config.model.attention.branch = base.attention('hybrid', channel='eca', spatial='cbam')
  return config
