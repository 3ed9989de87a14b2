"""Runs survive signals at drawn moments; `benchmarks/faults.py` counts more kinds of faults."""

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
  """Saved where it says so, the exit code of the signal, and the same bits at the end."""
  row = faults.signals(bench, 60)
  print(row)
  assert (row.tries, row.lost) == (60, 0)


@pytest.mark.slow
@pytest.mark.parametrize(('part', 'tries'), [('kills', 8), ('disks', 6), ('neighbors', 1)])
def test_faults_lose_nothing(part, tries, faults, bench):
  row = getattr(faults, part)(bench, tries)
  print(row)
  assert (row.tries, row.lost) == (tries, 0)
