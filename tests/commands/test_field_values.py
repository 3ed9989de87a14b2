"""Numbers and none in the fields of a config, in all forms that people write."""

import math
import re

import pytest

from attn_flax.commands import command_line, configs, field_values
from attn_flax.commands.flags import define
from attn_flax.training import left_open
from configs.presets.recipes import RECIPES

# Fields that are None by default, of each type and in each kind of section.
NULLABLE = (
  *('init_from', 'model.num_classes', 'model.depths', 'model.block', 'model.dropout'),
  *('model.branch_relu', 'data.dir', 'data.size', 'augment.crop_padding', 'augment.flip'),
  *('augment.randaugment', 'train.steps', 'train.clip_norm', 'train.ema_decay'),
  *('train.epochs', 'train.batch_size'),  # If they are None, the data decides them.
  *('checkpoint.every_steps', 'model.attention.branch.stages'),
)


def parsed(*words, config='eca'):
  command = ['main.py', f'--config={config}', *words]
  values = define(command)
  values(command)
  configs.settle(values)
  return values.config


def field(config, path):
  for part in path.split('.'):
    config = config[part]
  return config


@pytest.mark.parametrize('path', NULLABLE)
@pytest.mark.parametrize('word', ['None', 'none'])
def test_what_is_none_by_default_can_be_made_none(path, word):
  assert field(parsed(f'--config.{path}={word}'), path) is None


def test_what_a_run_leaves_to_its_data_can_be_made_none():
  for path in left_open._FIELDS:
    assert field(parsed(f'--config.{path}=none'), path) is None
  needs_a_value = {path for path in left_open._FIELDS if field(configs.load('base'), path)}
  assert needs_a_value == set(field_values._OPEN)


@pytest.mark.parametrize('recipe', RECIPES)
def test_none_switches_off_what_a_recipe_has_set(recipe):
  """Every field that a recipe sets and that is None by default can be set to none again."""
  default = configs.load('base')
  for path in RECIPES[recipe]:
    if field(default, path) is None:
      assert field(parsed(f'--config.{path}=none', config=f'resnet:{recipe}'), path) is None


@pytest.mark.parametrize(
  ('recipe', 'path', 'off'),
  [
    ('modern', 'augment.mixup_alpha', 0.0),
    ('modern', 'augment.cutmix_alpha', 0.0),
    ('modern', 'train.label_smoothing', 0.0),
    ('photos', 'augment.brightness', 0.0),
    ('cifar', 'optimizer.step_epochs', ()),
  ],
)
def test_none_is_the_value_that_switches_a_field_off(recipe, path, off):
  found = field(parsed(f'--config.{path}=None', config=f'resnet:{recipe}'), path)
  assert found == off and type(found) is type(off)
  study = parsed(f'--config.base.{path}=none', config=f'compare:{recipe}')
  assert field(study.base, path) == off


def test_what_0_switches_off_none_does_too():
  """By the comments of the base config."""
  source = (configs.folder() / 'base.py').read_text()
  zeros = set(re.findall(r'0: (?:off|no crop).*\n  config\.([\w.]+) = [^p]', source))
  assert len(zeros) > 6 and zeros <= set(field_values._OFF)
  default = configs.load('base')
  for path, off in field_values._OFF.items():
    assert type(off) is type(field(default, path))


def test_an_empty_value_is_refused(capsys):
  for path in ('data.dir', 'init_from', 'data.name'):
    assert command_line.run(['main.py', '--config=eca', f'--config.{path}=']) == 2
    assert f'--config.{path} is empty; give a value' in capsys.readouterr().err


@pytest.mark.parametrize(
  'path',
  ['eval.batch_size', 'optimizer.momentum', 'data.workers', 'log_every', 'seed'],
)
def test_none_in_a_field_that_needs_a_value_names_its_default(path, capsys):
  assert command_line.run(['main.py', '--config=eca', f'--config.{path}=none']) == 2
  (line,) = capsys.readouterr().err.splitlines()
  default = field(configs.load('base'), path)
  assert line == f'error: --config.{path} cannot be none; its default is {default}'


def test_none_is_a_word_where_a_mechanism_has_it():
  config = parsed('--config.model.attention.branch.spatial=none', config='eca_cbam')
  assert config.model.attention.branch.spatial == 'none'


def test_none_in_a_study():
  config = parsed(
    '--config.base.train.clip_norm=none',
    '--config.report.images=none',
    '--config.select=none',
    config='compare:smoke',
  )
  assert config.base.train.clip_norm is config.report.images is config.select is None


@pytest.mark.parametrize(
  ('path', 'word', 'value'),
  [
    ('train.epochs', '2.0', 2),
    ('train.epochs', '2', 2),
    ('train.steps', '1e3', 1000),
    ('seed', str(2**63 - 1), 2**63 - 1),
    ('data.size', '64.0', 64),
    ('train.label_smoothing', '0', 0.0),
    ('optimizer.lr_per_256', '1e-3', 1e-3),
    ('optimizer.lr_per_256', 'inf', math.inf),
  ],
)
def test_numbers_are_read_in_every_form(path, word, value):
  found = field(parsed(f'--config.{path}={word}'), path)
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  ('path', 'word', 'text'),
  [
    ('train.epochs', '2.5', '=2.5 is impossible; give a whole number'),
    ('train.epochs', 'two', '=two is impossible; give a whole number'),
    ('train.epochs', '1e400', '=1e400 is impossible; give a whole number'),
    ('train.label_smoothing', 'a', '=a is impossible; give a number'),
    ('seed', str(2**63), 'seed=9223372036854775808 is impossible'),
    ('train.clip_norm', '0', 'train.clip_norm=0.0 is impossible'),
  ],
)
def test_other_numbers_are_refused_in_a_line(path, word, text, small_dataset, capsys, tmp_path):
  command = ['--config=eca:smoke', f'--config.{path}={word}', f'--workdir={tmp_path}/run']
  assert command_line.run(['main.py', *command]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert text in line and path in line
  assert not (tmp_path / 'run').exists()
