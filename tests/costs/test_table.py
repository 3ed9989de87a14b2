"""The printed cost tables of the papers, row by row, and the table of the command line."""

import collections
import csv
import pathlib

import pytest

from attn_flax import UserError, create_model
from attn_flax.costs import table as cost_table
from attn_flax.costs.count import macs

_CSV = pathlib.Path(__file__).parents[1] / 'data' / 'published_costs.csv'


def _published():
  with _CSV.open(newline='') as file:
    return list(csv.DictReader(file))


def test_all_rows_of_cbam_table_4_fit(tmp_path):
  """Parameters and GFLOPs agree in each printed digit."""
  own = [row for row in _published() if 'CBAM' in row['source']]
  with (tmp_path / 'cbam.csv').open('w', newline='') as file:
    writer = csv.DictWriter(file, own[0])
    writer.writeheader()
    writer.writerows(own)
  rows = cost_table.published_table(tmp_path / 'cbam.csv')
  assert len(rows) == 24
  assert all(row['params'] and row['macs'] and row['fits'] for row in rows)


@pytest.fixture(scope='module')
def rows():
  return cost_table.published_table(_CSV)


@pytest.mark.slow
def test_a_row_fits_to_the_digit_or_has_a_reason(rows):
  wrong = [(row['row'], row) for row in rows if row['fits'] == bool(row['reason'])]
  assert not wrong


@pytest.mark.slow
def test_how_many_rows_of_each_table_do_not_fit(rows):
  """A row that stops fitting cannot pass unnoticed with a reason."""
  missed = collections.Counter(row['source'].split(' ')[0] for row in rows if not row['fits'])
  assert missed == {'Park': 3, 'Wang': 1, 'Bello': 2, 'Ramachandran': 2}


def test_every_row_names_its_source():
  for row in _published():
    assert row['source'] and row['params'] and row['convention'] in cost_table.CONVENTIONS


def test_units_of_a_row():
  row = cost_table.cost_table(['resnet50'], ['none'], image_size=224, stride_in='1x1')[0]
  assert row['params'] == 25_557_032
  assert (row['params_1e6'], row['params_2^20']) == ('25.56', '24.37')
  assert row['macs'] == 3_857_973_248
  assert (row['macs_1e9'], row['macs_2^30'], row['flops_1e9']) == ('3.858', '3.593', '7.716')


def test_attention_products_are_counted_apart():
  row = cost_table.cost_table(['resnet18'], ['aa'], image_size=64, num_classes=10)[0]
  assert row['macs'] < row['macs_with_attention']
  row = cost_table.cost_table(['resnet20'], ['eca'], image_size=32, num_classes=10)[0]
  assert row['macs'] == row['macs_with_attention']


def test_a_mechanism_that_a_network_does_not_take_has_a_row_with_the_reason():
  rows = cost_table.cost_table(['vit_tiny32'], ['none', 'se'], image_size=32, num_classes=10)
  assert [row['params'] for row in rows] == [2_693_578, '-']
  assert 'made of attention' in rows[1]['reason']
  with pytest.raises(UserError, match='made of attention'):
    cost_table.cost_table(['vit_tiny32'], ['se'], image_size=32)


def test_concatenation_counts_the_product_of_its_definition():
  """w . [theta, phi] has twice the hidden channels, for every pair of positions."""
  model = create_model(
    'resnet18',
    attention='non_local',
    attention_kwargs={'kernel': 'concatenation', 'subsample': 'none', 'stages': (2,)},
  )
  pairs, hidden = (28 * 28) ** 2, 128 // 2
  assert macs(model, (224, 224, 3)).attention == pairs * (2 * hidden + hidden)


def test_a_missing_file_is_named():
  with pytest.raises(UserError, match='nowhere.csv'):
    cost_table.published_table(pathlib.Path('nowhere.csv'))
