"""Datasets opened by name, and the input pipelines over their splits.

Importing this package is cheap: tensorflow-datasets, scikit-learn and Grain are imported where they
are first needed.
"""

from attn_flax.data.dataset import Dataset, DatasetSpec, Part
from attn_flax.data.datasets import DATASETS, FOLDER, SPLITS
from attn_flax.data.examples import Split
from attn_flax.data.loading import load
from attn_flax.data.records import Records

__all__ = [
  'DATASETS',
  'FOLDER',
  'SPLITS',
  'Dataset',
  'DatasetSpec',
  'Part',
  'Records',
  'Split',
  'load',
]
