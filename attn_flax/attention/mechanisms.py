"""The attention mechanisms by name.

A refiner maps [N, H, W, C] to [N, H, W, C] and is called `module(x, train=train)`; a mechanism
that stands in for a convolution takes the fields `features` and `stride` and is called
`module(x)`. To add one of your own, write one class and one line here (or pass the class to
`attn_flax.create_model`).
"""

import flax.linen as nn

from attn_flax.attention.aa import AugmentedConv
from attn_flax.attention.additive import Additive
from attn_flax.attention.bam import BAM
from attn_flax.attention.cbam import CBAM
from attn_flax.attention.dual import Dual
from attn_flax.attention.eca import ECA
from attn_flax.attention.hybrid import Hybrid
from attn_flax.attention.non_local import NonLocal
from attn_flax.attention.sasa import StandAlone
from attn_flax.attention.sca import SCA
from attn_flax.attention.se import SE

ATTENTION: dict[str, type[nn.Module]] = {
  'aa': AugmentedConv,
  'additive': Additive,
  'bam': BAM,
  'cbam': CBAM,
  'dual': Dual,
  'eca': ECA,
  'hybrid': Hybrid,
  'non_local': NonLocal,
  'sasa': StandAlone,
  'sca': SCA,
  'se': SE,
}
