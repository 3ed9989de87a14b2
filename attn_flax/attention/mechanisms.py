"""The attention mechanisms by name.

`protocols` says how they are called and what their classes declare. To add a mechanism, write one
class and one line here, or pass the class to `attn_flax.create_model`.
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
from attn_flax.attention.protocols import ConvLike, Refiner
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

# Here the type checker compares each class with the Protocol that it has to fulfill.
REFINERS: tuple[type[Refiner], ...] = (Additive, BAM, CBAM, Dual, ECA, Hybrid, NonLocal, SCA, SE)
CONV_LIKES: tuple[type[ConvLike], ...] = (AugmentedConv, StandAlone)
