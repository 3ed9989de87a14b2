"""Attention mechanisms, one file each; every one is a plain Flax (Linen) module."""

from attn_flax.attention.aa import AugmentedConv
from attn_flax.attention.additive import Additive
from attn_flax.attention.bam import BAM
from attn_flax.attention.cbam import CBAM
from attn_flax.attention.dual import Dual
from attn_flax.attention.eca import ECA
from attn_flax.attention.hybrid import Hybrid
from attn_flax.attention.mechanisms import ATTENTION
from attn_flax.attention.names import list_attention
from attn_flax.attention.non_local import NonLocal
from attn_flax.attention.sasa import StandAlone
from attn_flax.attention.sca import SCA
from attn_flax.attention.se import SE

__all__ = [
  'ATTENTION',
  'BAM',
  'CBAM',
  'ECA',
  'SCA',
  'SE',
  'Additive',
  'AugmentedConv',
  'Dual',
  'Hybrid',
  'NonLocal',
  'StandAlone',
  'list_attention',
]
