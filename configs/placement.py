"""Study: CBAM in every block, in every second block, in the last stage, or between the stages.

    python main.py --config=configs/placement.py --mode=compare

The authors of CBAM leave open whether attention in every block overfits; the report shows training
and validation curves side by side. `--config.variants.<name>.<place>.name` sets another mechanism.
"""

from configs import base
from configs.presets import study


def get_config(arg=''):
  preset, words = study.split(arg)
  shared = base.get_config(words)
  fields = {'ratio': 4} if base.thin(shared) else {}
  last = base.last_stage(shared)

  def cbam(where, **placement):
    return study.at(where, base.attention('cbam', **fields, **placement))

  variants = {
    'none': shared.model.attention,
    'every_block': cbam('branch'),
    'every_second_block': cbam('branch', every=base.every_second(shared)),
    'last_stage': cbam('branch', stages=(last,)),
    'between_stages': cbam('stage', stages=tuple(range(1, last))),
  }
  return study.make(preset, words, shared, 'none', variants)
