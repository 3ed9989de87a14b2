"""What the papers print of the mechanisms: the rows of `published.csv`.

Each row is a top-1 accuracy in percent beside that of the plain network in the same table, as 100
less the printed error. `recipe` is empty where it is not known. Mechanisms whose papers have no
such table (`dual`, `non_local`, `sca`: segmentation, video and captions) have no rows.
"""

import csv
import pathlib
from collections.abc import Collection

_FILE = pathlib.Path(__file__).with_name('published.csv')


def rows(mechanisms: Collection[str]) -> list[dict[str, str]]:
  """The rows about some mechanisms, by their names in `attn_flax.attention`."""
  with open(_FILE, newline='', encoding='utf-8') as file:
    return [row for row in csv.DictReader(file) if row['mechanism'] in mechanisms]
