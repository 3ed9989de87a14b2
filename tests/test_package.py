"""The packaging: what is installed, its version, its dependencies, and the hooks that check it."""

import pathlib
import re
import tomllib

import yaml

import attn_flax

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())


def test_every_package_is_installed_and_the_configs_with_them():
  folders = {path.parent.relative_to(ROOT) for path in (ROOT / 'attn_flax').rglob('*.py')}
  configs = {path.parent.relative_to(ROOT) for path in (ROOT / 'configs').rglob('*.py')}
  found = {'.'.join(folder.parts) for folder in folders}
  found |= {'.'.join(('attn_flax', *folder.parts)) for folder in configs}
  assert set(PROJECT['tool']['setuptools']['packages']) == found


def test_the_version_is_said_once():
  assert PROJECT['project']['dynamic'] == ['version']
  citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert citation['version'] == attn_flax.__version__


def test_types_are_shipped():
  assert (ROOT / 'attn_flax' / 'py.typed').exists()
  assert 'py.typed' in PROJECT['tool']['setuptools']['package-data']['attn_flax']


def test_the_hooks_are_what_ci_lints():
  hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
  script = (ROOT / '.ci' / 'run').read_text().splitlines()
  linted = [line for line in script if re.match('ruff|mypy', line)]
  assert [hook['entry'] for hook in hooks] == linted


def test_the_library_alone_takes_three_packages():
  names = {re.match(r'[\w-]+', line)[0] for line in PROJECT['project']['dependencies']}
  assert names == {'flax', 'jax', 'numpy'}


def test_the_extra_that_runs_a_command_brings_what_commands_take():
  extras = PROJECT['project']['optional-dependencies']
  assert 'attn_flax[train]' in extras['prepare'] and 'attn_flax[train]' in extras['test']
