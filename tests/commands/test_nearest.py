"""Mistyped command lines: the error is one line that suggests what to type."""

import os
import pathlib
import re
import subprocess
import sys

import answers
import pytest

from attn_flax.commands import command_line
from attn_flax.commands.flags import define
from attn_flax.errors import UserError, check_choice
from attn_flax.models import list_models
from attn_flax.study import plan

ROOT = pathlib.Path(__file__).parents[2]
BRANCH = '--config.model.attention.branch'
MOST_NAMES = 20
PREDICT = ('--mode=predict', '--workdir=x')
STUDY = ('--mode=compare', '--config=compare')
# Words that are typed after --config=eca, and the end of the error.
LIKELY = {
  '--epochs=3': '--config.train.epochs=3?',
  '--epochs 3': '--config.train.epochs=3?',
  '--epochs': '--config.train.epochs?',
  '--lr=0.1': '--config.optimizer.lr_per_256=0.1?',
  '--learning-rate=0.1': '--config.optimizer.lr_per_256=0.1?',
  '--batch-size=8': '--config.train.batch_size=8 or --config.eval.batch_size=8?',
  '--seed=3': '--config.seed=3?',
  '--model=resnet50': '--config.model.name=resnet50?',
  '--dataset=cifar10': '--config.data.name=cifar10?',
  '--optimizer=adamw': '--config.optimizer.name=adamw?',
  '--attention=se': '--config=se?',
  '--wrokdir=x': '--workdir=x?',
  '--restrat': '--restart?',
  '--nonsense=3': '--help shows all flags',
  '--config.train.epoch=3': '--config.train.epochs=3?',
  '--config.epochs=3': '--config.train.epochs=3?',
  '--config.optimiser.name=adamw': '--config.optimizer.name=adamw?',
  '--config.model.nmae=x': '--config.model.name=x?',
  '--config.model=resnet18': '--config.model.name=resnet18?',
  '--config.train=3': 'epochs, label_smoothing and 1 more',
  '--config.train.epochs.x=3': 'set --config.train.epochs itself',
  '--config.model.depths[0]=3': 'set the whole --config.model.depths',
  f'{BRANCH}.gama=3': f'{BRANCH}.gamma=3?',
  '--config.attention.branch.b=1': f'{BRANCH}.b=1?',
  '--config.model.attention.stage.b=1': f'{BRANCH}.b=1?',
  f'{BRANCH}=se': f'{BRANCH}.name=se?',
  '--mode=eval': 'allowed: train, evaluate, predict, explain, compare, import, cost',
  '--config.train.epochs=many': '--config.train.epochs=many is impossible; give a whole number',
  '--config.optimizer.momentum=a': '--config.optimizer.momentum=a is impossible; give a number',
  '--config.data.balanced=maybe': '--config.data.balanced=maybe is impossible; give True or False',
  'eca': '--config=eca?',
  'config=eca': '--config=eca?',
  'evaluate': '--mode=evaluate?',
  'eval': '--mode=evaluate?',
  'report': '--mode=compare?',
  'ECA:smoke': '--config=eca:smoke?',
  'epochs=3': '--config.train.epochs=3?',
  'train.epochs=3': '--config.train.epochs=3?',
  'config.train.epochs=3': '--config.train.epochs=3?',
  'workdir=x': '--workdir=x?',
  '--WORKDIR=x': '--workdir=x?',
  '--bs=3': '--config.train.batch_size=3 or --config.eval.batch_size=3?',
  '--config.optimizer.LR=3': '--config.optimizer.lr_per_256=3?',
  f'{BRANCH}.name=CBAM': "unknown attention 'CBAM'; did you mean 'cbam'?",
  'help': '--help?',
}
# Whole command lines, and a part of the error of each.
OTHERS = {
  ('--config.seed=3', '--config=eca'): '--config.seed=3 stands before --config; name the config '
  'first, then its fields',
  ('--config=eca', '--config.=3'): 'lists all fields',
  ('--epochs=3',): '--config.train.epochs=3?',
  ('--config=eca:resnet19',): "unknown model 'resnet19'; did you mean 'resnet18'?",
  ('--config=ECA',): '--config=eca?',
  ('--config=ECA-CBAM',): '--config=eca_cbam?',
  ('--config=gs://eca.py',): '--config gs://eca.py is not a path of the file system; mount the '
  'bucket as a folder and name that',
  ('--config=',): '--config is empty; name a config, such as eca, or a file',
  ('--config=eca:resnext50',): "did you mean 'resnext50_32x4d'?",
  ('--config=eca:resnet20x',): "did you mean 'resnet20'?",
  ('--config=eca:ResNet-50',): "did you mean 'resnet50'?",
  ('--config=compare:CIFAR10',): "did you mean 'cifar10'?",
  ('--config=eca', '--mode=report'): 'did you mean --mode=compare? allowed: train, evaluate, '
  'predict, explain, compare, import, cost',
  ('--mode=cost', '--attentions=CBAM'): "unknown attention 'CBAM'; did you mean 'cbam'?",
  (*STUDY, '--config.select=ECA'): "unknown study variant 'ECA'; did you mean 'eca'?",
  (*STUDY, '--config.only=eca'): "unknown only 'eca'; did you mean 'eca/seed0'?",
  ('--mode=explain', *PREDICT[1:], '--images=y', '--methods=GradCAM'): "did you mean 'grad_cam'?",
  ('--config=eca', '--config.data.dir='): '--config.data.dir is empty; give a value, or leave it '
  'out',
  ('--config=eca,smoke',): '--config=eca:smoke?',
  ('--config=resnet50',): '--config=resnet:resnet50?',
  ('--config=cifar10',): '--config=resnet:cifar10?',
  ('--mode=cost', '--image_size=big'): '--image_size=big is impossible; give a whole number',
  ('--mode=cost', '--stride_in=2'): '--stride_in=2 is unknown; allowed: 3x3, 1x1',
  (*STUDY, '--config.train.epochs=3'): '--config.base.train.epochs=3?',
  (*STUDY, '--config.selct=eca'): '--config.select=eca?',
  (*STUDY, '--config.select=eca,cbma'): "unknown study variant 'cbma'; did you mean 'cbam'?",
  ('--config=resnet', f'{BRANCH}.ratio=8'): 'choose one that has, such as --config=se',
  ('--config=resnet', '--config.model.attention=se'): 'that you want, such as --config=se',
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path):
  with answers.nothing_written(tmp_path):
    yield


def error_of(capsys, *words):
  line = answers.error_of(capsys, *words)
  assert line.count(',') < MOST_NAMES and '"' not in line, line
  return line


@pytest.mark.parametrize(('typed', 'end'), LIKELY.items(), ids=LIKELY)
def test_the_answer_is_what_to_type(typed, end, capsys):
  line = error_of(capsys, '--config=eca', *typed.split())
  assert line.endswith(end), line


@pytest.mark.parametrize(('words', 'end'), OTHERS.items(), ids=' '.join)
def test_whole_command_lines_are_answered(words, end, capsys, small_dataset):
  assert error_of(capsys, *words).endswith(end)


def test_a_field_of_another_mechanism_is_told_from_a_typing_error(capsys):
  line = error_of(capsys, '--config=eca', f'{BRANCH}.ratio=8')
  assert 'eca, the attention at branch, has no ratio' in line
  assert 'its fields are kernel_size, gamma, b, circular' in line
  assert line.endswith('ratio is a field of additive, bam, cbam, dual, hybrid, non_local, sca, se')
  line = error_of(capsys, *STUDY, '--config.variants.eca.branch.ratio=8')
  assert 'eca, the attention at branch, has no ratio' in line


@pytest.mark.parametrize('flag', ['--help', '--helpfull', '--helpshort', '-h', '-help'])
def test_every_call_for_help_is_heard(flag, capsys):
  assert command_line.run(['main.py', flag]) == 0
  assert '--mode=train' in capsys.readouterr().out


@pytest.mark.parametrize(
  'typed', ['eca,cbam', 'eca, cbam', '(eca,cbam)', "('eca','cbam')", '[eca, cbam]', 'eca cbam']
)
def test_several_words_are_typed_as_they_come(typed):
  assert plan.variants(config_of(f'--config.select={typed}')) == ['resnet', 'cbam', 'eca']


@pytest.mark.parametrize(
  ('field', 'typed', 'value'),
  [
    ('select', 'eca', ('eca',)),
    ('select', 'eca,', ('eca',)),
    ('seeds', '3', (3,)),
    ('seeds', '0,1', (0, 1)),
    ('seeds', '(0,1)', (0, 1)),
  ],
)
def test_tuples_are_read(field, typed, value):
  assert config_of(f'--config.{field}={typed}')[field] == value


def config_of(*words):
  argv = ['main.py', *STUDY, *words]
  values = define(argv)
  values(argv)
  return values.config


def test_of_many_names_the_nearest_are_listed():
  names = list_models()
  for value in ('efficientnet', 'x', ''):
    with pytest.raises(UserError, match=rf'allowed: .* and {len(names) - 8} more') as caught:
      check_choice('model', value, names)
    assert str(caught.value).count(',') == 7


@pytest.mark.parametrize('name', ['a\\b', 'new\\table', "it's\\n"])
def test_values_are_shown_as_they_are_typed(name, capsys):
  assert f'--config.init_from={name} does not exist' in error_of(
    capsys, '--config=eca', f'--config.init_from={name}'
  )
  assert f'costs {name} cannot be' in error_of(capsys, '--mode=cost', f'--published={name}')
  with pytest.raises(UserError, match=re.escape(name)):
    check_choice('model', name, list_models())


def test_fields_that_cannot_be_read_as_a_mapping_are_one_line(capsys):
  line = error_of(capsys, '--config=eca', '--config.train={bad')
  assert line.endswith('is impossible; give fields by name, in braces') and '\\' not in line


@pytest.mark.parametrize(
  ('platform', 'fix'),
  [('cuda', "'attn_flax[cuda]'"), ('tpu', "'attn_flax[tpu]'"), ('nonsense', 'usual names')],
)
def test_devices_that_are_not_there_are_one_line(platform, fix, tmp_path):
  done = subprocess.run(
    [sys.executable, str(ROOT / 'main.py'), '--config=eca:smoke'],
    cwd=tmp_path,
    env=os.environ | {'JAX_PLATFORMS': platform, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  if done.returncode == 0:
    pytest.skip(f'this machine has {platform}')
  assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
  assert f'error: JAX_PLATFORMS={platform} asks for devices' in done.stderr
  assert 'unset it' in done.stderr and fix in done.stderr
