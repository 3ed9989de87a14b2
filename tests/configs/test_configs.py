"""The config files: complete, documented, independent, and the same except for the attention."""

import ast
import csv
import dataclasses
import itertools
import pathlib
import re
import subprocess
import sys

import pytest
from config_files import FILES, STUDIES
from ml_collections import ConfigDict

from attn_flax import count_macs, count_params
from attn_flax.attention import ATTENTION
from attn_flax.attention.protocols import traits
from attn_flax.costs.count import abstract_variables
from attn_flax.data import DATASETS
from attn_flax.data.augment.augmentation import Augmentation
from attn_flax.data.loading import MAX_PIXELS
from attn_flax.data.sources.cluttered_digits.generate import DEFAULT_SEED
from attn_flax.models import list_models
from attn_flax.models.create import CONV_FIELDS, PLACEMENT_FIELDS
from attn_flax.models.zoo import find_network
from attn_flax.training.experiment import make_model
from configs import base

ROOT = pathlib.Path(__file__).parents[2]
ARGUMENTS = ['', 'smoke', 'resnet18,smoke', 'resnet50', 'cluttered_digits, wrn28_10,smoke']


def load(path, argument):
  namespace = {}
  exec(path.read_text(), namespace)
  return namespace['get_config'](argument)


@pytest.mark.parametrize('argument', ARGUMENTS)
@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_every_config_describes_a_network(path, argument):
  """Each field exists in the network, with a value that it accepts."""
  config = load(path, argument).model
  network = make_model(config, num_classes=10)
  assert {place.where for place in network.attention} == set(config.attention)
  for place in network.attention:
    assert place.module is ATTENTION[config.attention[place.where].name]


def test_the_words_of_the_argument_are_obeyed():
  config = base.get_config('resnet18,smoke')
  assert config.model.name == 'resnet18'
  assert config.model.depths == (1, 1, 1, 1) and config.train.steps == 20
  assert base.get_config('resnet56').model.name == 'resnet56'
  assert base.get_config('resnet20,smoke').model.depths == (1, 1, 1)
  assert base.get_config('').model.name == 'resnet20' and base.get_config().train.steps is None


def test_every_network_is_a_word():
  for name in list_models():
    assert base.get_config(name).model.name == name


def test_the_last_stage_is_that_of_the_network():
  for name in list_models():
    assert base.last_stage(base.get_config(name)) == find_network(name).num_stages, name


@pytest.mark.parametrize('word', ['smok', 'resnet', 'cluttered-digits', 'smoke=1'])
def test_an_unknown_word_is_refused(word):
  with pytest.raises(ValueError, match=f"unknown word '{word}'.* allowed: smoke, .*network"):
    base.get_config(word)


def test_the_defaults_of_data_are_those_of_the_library():
  """A field that is None in the config is decided by the dataset."""
  config = base.get_config()
  assert config.data.seed == DEFAULT_SEED and config.data.max_pixels == MAX_PIXELS
  augmentation = Augmentation(mean=(0.5,), std=(0.5,))
  for field, value in config.augment.items():
    assert value is None or value == getattr(augmentation, field), field


@pytest.mark.parametrize('argument', ARGUMENTS)
def test_variants_differ_in_their_attention_alone(argument):
  """The comparison is controlled: without `model.attention`, all configs are the baseline's."""
  configs = {path.stem: load(path, argument).to_dict() for path in FILES}
  attentions = {name: str(config['model'].pop('attention')) for name, config in configs.items()}
  for name, other in itertools.combinations(configs, 2):
    assert configs[name] == configs[other], f'{name} and {other} differ'
  assert len(set(attentions.values())) == len(attentions)


def own_fields(module):
  """The fields of a mechanism that a config sets, with their defaults.

  A field that may differ by stage has a tuple of one value.
  """
  declared = traits(module)
  excluded = ['parent', 'name', 'dtype', *(CONV_FIELDS if declared.where == 'conv' else ())]
  return {
    f.name: (f.default,) if f.name in declared.per_stage and f.default is not None else f.default
    for f in dataclasses.fields(module)
    if f.name not in excluded
  }


def test_every_mechanism_has_all_its_fields_in_the_base_config():
  """With the defaults of its class; a placeholder, whose value is None, stands for None."""
  listed = {name: ConfigDict(fields).to_dict() for name, fields in base.ATTENTION.items()}
  assert listed == {name: own_fields(module) for name, module in ATTENTION.items()}


@pytest.mark.parametrize('name', base.ATTENTION)
def test_an_entry_of_the_attention_mapping_is_complete(name):
  """The command line can set each of its fields, and no other."""
  entry = base.attention(name)
  assert set(entry) == {*PLACEMENT_FIELDS, *own_fields(ATTENTION[name])}
  assert entry.stages is None
  entry.stages = (1,)  # The placeholder takes a tuple, and no other type.
  with pytest.raises(TypeError):
    entry.stages = 'all'
  with pytest.raises((AttributeError, KeyError)):
    base.attention(name, no_such_field=1)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_a_config_says_what_its_network_costs(path):
  """With the default dataset: images of 32x32 pixels and ten classes."""
  model = make_model(load(path, '').model, num_classes=10)
  shape = (32, 32, 3)
  params, macs = count_params(abstract_variables(model, shape)), count_macs(model, shape)
  expected = f'{params:,} parameters, {macs / 1e6:.1f} M multiply-adds per image.'
  assert docstring_line(path, 'Default network') == expected


def test_a_config_says_what_the_quick_study_measured():
  """The configs of the variants in `docs/example_report`, with its numbers, and no others."""
  expected = {}
  with (ROOT / 'docs' / 'example_report' / 'results.csv').open() as file:
    for row in csv.DictReader(file):
      mean, spread = (100 * float(row[name]) for name in ('top1_mean', 'top1_spread'))
      time, ratio = float(row['step_ms']), float(row['step_ratio'])
      expected[row['variant']] = (
        f'top-1 {mean:.1f} +- {spread:.1f} %, {time:.0f} ms per update (x{ratio:.2f}).'
      )
  assert expected == {
    path.stem: line for path in FILES if (line := docstring_line(path, 'Quick study'))
  }


def test_a_config_says_what_the_default_command_gives():
  """With the numbers of `benchmarks/commands.py`."""
  (table,) = (ROOT / 'benchmarks' / 'results').glob('commands-*.csv')
  expected = {}
  with table.open() as file:
    for row in csv.DictReader(file):
      accuracy, ratio = 100 * float(row['top1']), float(row['time_vs_baseline'])
      assert row['seed'] == '0' and row['updates'] == '1000'
      expected[row['config']] = f'top-1 {accuracy:.1f} %, time per update x{ratio:.2f}.'
  found = {path.stem: docstring_line(path, 'Default command') for path in FILES}
  assert expected == {name: line for name, line in found.items() if line}
  for path in FILES:
    assert found[path.stem] or docstring_line(path, 'Quick study'), path.stem


def test_the_updates_of_the_default_command():
  """The docstring of the base config says how many there are."""
  train, spec = base.get_config().train, DATASETS['cluttered_digits']
  updates = train.epochs * (8000 // train.batch_size)
  assert f'{updates:,} updates' in ' '.join(base.__doc__.split())
  assert spec.image_size == 32


def docstring_line(path, label):
  """The text after a label in a config's docstring; '' without it."""
  found = re.search(rf'^{label}: (.*)$', ast.get_docstring(ast.parse(path.read_text())), re.M)
  return found[1] if found else ''


def test_configs_import_neither_jax_nor_the_library():
  code = (
    'import importlib, sys\n'
    f'for name in {[path.stem for path in FILES] + ["base", *STUDIES]}:\n'
    '  importlib.import_module(f"configs.{name}")\n'
    'assert not {"jax", "flax", "attn_flax"} & set(sys.modules)\n'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
  assert done.returncode == 0, done.stderr


def assigned_fields(function):
  """(line number, source) of each assignment to a field of the config in a function of base.py."""
  for node in ast.walk(function):
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
      yield node.lineno, ast.unparse(node)


def test_every_field_is_explained():
  """Each assignment of a field is below a comment; those of empty sections need none."""
  source = (ROOT / 'configs' / 'base.py').read_text()
  lines = source.splitlines()
  functions = {f.name: f for f in ast.parse(source).body if isinstance(f, ast.FunctionDef)}
  fields = list(assigned_fields(functions['get_config']))
  assert len(fields) > 35
  for number, text in fields:
    is_section = text.endswith('= ConfigDict()') and 'attention' not in text
    assert is_section or lines[number - 2].strip().startswith('#'), text
