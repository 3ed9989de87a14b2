"""The study: every mechanism against the network without attention, with several seeds.

    python main.py --config=configs/compare.py --mode=compare

Words: `quick` (seven variants, three seeds, hours on two CPU cores), `smoke` (minutes), and those
of `base`, such as a network or a dataset.
"""

from configs import (
  aa,
  additive,
  bam,
  cbam,
  dot_product_additive,
  dual,
  eca,
  eca_aa,
  eca_bam,
  eca_cbam,
  non_local,
  resnet,
  sasa,
  sca,
  se,
  se_non_local,
)
from configs.presets import study

_QUICK = {'resnet': resnet, 'se': se, 'eca': eca, 'cbam': cbam, 'bam': bam, 'aa': aa}
_QUICK |= {'eca_cbam': eca_cbam}
_MORE = {'additive': additive, 'dual': dual, 'non_local': non_local, 'sasa': sasa, 'sca': sca}
_MORE |= {'dot_product_additive': dot_product_additive, 'eca_aa': eca_aa, 'eca_bam': eca_bam}
_MORE |= {'se_non_local': se_non_local}
_FILES = {
  '': _QUICK | _MORE,
  'quick': _QUICK,
  'smoke': {'resnet': resnet, 'eca': eca, 'cbam': cbam},
}


def get_config(arg=''):
  preset, words = study.split(arg)
  variants = {name: file.get_config(words).model.attention for name, file in _FILES[preset].items()}
  return study.make(preset, words, resnet.get_config(words), 'resnet', variants)
