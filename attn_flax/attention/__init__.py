"""Attention mechanisms, one file each.

A refiner maps [N, H, W, C] to [N, H, W, C] and is called `module(x, train=train)`. To add one of
your own, write one class and one line here (or pass the class to `attn_flax.create_model`).
"""

import flax.linen as nn

from attn_flax.attention.bam import BAM
from attn_flax.attention.cbam import CBAM
from attn_flax.attention.eca import ECA
from attn_flax.attention.se import SE

ATTENTION: dict[str, type[nn.Module]] = {
  'bam': BAM,
  'cbam': CBAM,
  'eca': ECA,
  'se': SE,
}
