"""docs/departures.md has rows for every mechanism, with the switches and defaults of the code."""

import dataclasses
import pathlib
import re

import pytest

from attn_flax.attention import ATTENTION

_PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'departures.md'


def _rows():
  lines = [line for line in _PAGE.read_text().splitlines() if line.startswith('| `')]
  return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]


def test_every_mechanism_has_rows_and_no_other():
  assert {row[0].strip('`') for row in _rows()} == set(ATTENTION)


@pytest.mark.parametrize('row', _rows(), ids=lambda row: f'{row[0]}-{row[1]}')
def test_switches_are_fields_and_defaults_are_printed(row):
  mechanism, _, paper, released, ours, switch = row
  assert paper and released and ours
  defaults = {f.name: f.default for f in dataclasses.fields(ATTENTION[mechanism.strip('`')])}
  names = re.findall(r'`(\w+)`', switch)
  assert names or switch == '-'
  for name in names:
    assert name in defaults
  if len(names) == 1:
    assert re.match(r'`([^`]*)`', ours)[1] == repr(defaults[names[0]])
