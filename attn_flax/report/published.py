"""Accuracies that papers report for the mechanisms: the rows of `published.csv`.

Each row is an accuracy on ImageNet or CIFAR-100 in percent and that of the plain network in
the same table; where a table prints errors, 100 minus the error. `recipe` is empty where it is not
known. Mechanisms whose papers have no such table (`dual`, `non_local`, `sca`: segmentation, video
and captions) have no rows.
"""

import csv
import pathlib
from collections.abc import Collection

from attn_flax.study.findings import Variant

_FILE = pathlib.Path(__file__).with_name('published.csv')


def of_variant(variant: Variant) -> list[dict[str, str]]:
  """The rows about a variant's mechanism; none where it combines several mechanisms."""
  names = {one.name for one in variant.mechanisms or () if one.attends}
  return rows(names) if len(names) == 1 else []


def rows(mechanisms: Collection[str]) -> list[dict[str, str]]:
  """The rows about some mechanisms, by their names in `attn_flax.attention`."""
  with open(_FILE, newline='', encoding='utf-8') as file:
    return [row for row in csv.DictReader(file) if row['mechanism'] in mechanisms]
