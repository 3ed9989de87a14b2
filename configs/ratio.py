"""Study: the share of attention in attention-augmented convolution, kappa = upsilon from 0 to 1.

    python main.py --config=configs/ratio.py --mode=compare

Bello et al. (ICCV 2019, section 4.4 and figure 4) vary it from convolution alone to attention
alone. With four heads and one key dimension per head at least, all ratios differ in networks whose
stages have a multiple of 16 channels. The report lists the key and value dimensions of each.
"""

from configs import base
from configs.presets import study

PERCENT = (0, 25, 50, 75, 100)


def get_config(arg=''):
  preset, words = study.split(arg)
  shared = base.get_config(words)

  def augmented(share):
    entry = base.attention('aa', heads=4, min_key_dim=1, kappa=share, upsilon=share)
    return study.at('conv', entry)

  variants = {f'ratio_{percent:03}': augmented(percent / 100) for percent in PERCENT}
  return study.make(preset, words, shared, 'ratio_000', variants)
