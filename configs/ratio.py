"""The share of attention in attention-augmented convolution: kappa = upsilon from 0 to 1.

    python main.py --config=configs/ratio.py --mode=compare

Bello et al. (ICCV 2019, section 4.4 and figure 4) vary it from convolution alone to attention
alone. Four heads without a least key dimension keep every ratio distinct in networks whose stages
are multiples of 16 wide: the report lists the key and value dimensions that each comes to.
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
