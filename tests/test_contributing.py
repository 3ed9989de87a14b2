"""The map in CONTRIBUTING.md names every file of the tree, and no other."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ('attn_flax', 'benchmarks', 'configs')


def mapped():
  """The files of each folder, as the rows of the map name them."""
  rows = re.findall(r'^\| `([\w/.]+/)` \| (.*?) \|', (ROOT / 'CONTRIBUTING.md').read_text(), re.M)
  assert len(dict(rows)) == len(rows)
  return {folder: set(re.findall(r'`([\w.]+)`', names)) for folder, names in rows}


def tree():
  """The stems of the Python files of each folder, without `__init__`."""
  found = {}
  for top in FOLDERS:
    for path in sorted((ROOT / top).rglob('*.py')):
      folder = f'{path.parent.relative_to(ROOT).as_posix()}/'
      found.setdefault(folder, set())
      if path.name != '__init__.py':
        found[folder].add(path.stem)
  return {folder: names for folder, names in found.items() if names}


def test_the_map_is_the_tree():
  assert mapped() == tree()


def test_tests_mirror_the_tree():
  """Each folder of tests has the name of the folder that it tests."""
  apart = {'frozen', 'golden', 'helpers'}
  for path in (ROOT / 'tests').rglob('test_*.py'):
    folder = path.parent.relative_to(ROOT / 'tests')
    assert folder.parts[:1] == () or folder.parts[0] not in apart
    assert (ROOT / 'attn_flax' / folder).is_dir() or (ROOT / folder).is_dir(), path
