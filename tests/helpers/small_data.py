"""A smaller version of cluttered digits, so that a whole run takes seconds."""

import dataclasses

from attn_flax import data
from attn_flax.data.sources.cluttered_digits import build

# Five updates of 64 images per epoch; evaluation ends with a batch that is not full. Validation and
# test have one size, so that they share the compiled program that scores them.
SIZES = {'train': 320, 'validation': 120, 'test': 120}


def prepare(data_dir, size=32, seed=2014):
  """Prepares the dataset in a folder, or opens it there."""
  return build.prepare(data_dir, size, seed, SIZES)


def spec():
  """The entry of `data.DATASETS` for this dataset."""
  return dataclasses.replace(data.DATASETS['cluttered_digits'], splits=SIZES, open=prepare)
