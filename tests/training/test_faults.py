"""Runs survive signals at random moments; `benchmarks/faults.py` tests more kinds of faults."""

import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def faults():
  """The benchmark, as a module."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / 'benchmarks'))
    yield importlib.import_module('faults')


@pytest.fixture(scope='module')
def bench(faults, tmp_path_factory):
  return faults.Bench(tmp_path_factory.mktemp('faults'))


@pytest.mark.slow
def test_sixty_signals_lose_nothing(faults, bench):
  """The run is saved at the update it names, exits with the signal's code, and ends bit for bit."""
  row = faults.signals(bench, 60)
  print(row)
  assert (row.tries, row.lost) == (60, 0)


@pytest.mark.slow
@pytest.mark.parametrize(('part', 'tries'), [('kills', 8), ('disks', 6), ('neighbors', 1)])
def test_faults_lose_nothing(part, tries, faults, bench):
  row = getattr(faults, part)(bench, tries)
  print(row)
  assert (row.tries, row.lost) == (tries, 0)
