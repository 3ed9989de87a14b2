"""`--config`: the file that a name or path means, its imports, and the values of its fields."""

import pathlib
import re
import sys

import pytest
import run_files

from attn_flax import UserError
from attn_flax.commands import command_line, configs
from attn_flax.commands.flags import define
from attn_flax.training.experiment import make_model

ROOT = pathlib.Path(__file__).parents[2]
BRANCH = '--config.model.attention.branch'
GATE = """
import flax.linen as nn


class MyGate(nn.Module):
  \"\"\"A gate.\"\"\"

  ratio: int = 2
  kind: str = 'plain'

  @nn.compact
  def __call__(self, x, *, train):
    return x * nn.sigmoid(nn.Dense(self.ratio)(x).mean(-1, keepdims=True))
"""


@pytest.fixture(autouse=True)
def outside(monkeypatch, tmp_path):
  """A working directory without a checkout, as with an installed wheel; restores modules."""
  before = {name: module for name, module in sys.modules.items() if is_config(name)}
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p not in ('', '.', str(ROOT))])
  for name in before:
    del sys.modules[name]
  yield tmp_path
  for name in [name for name in sys.modules if is_config(name) or name.startswith('own_')]:
    del sys.modules[name]
  sys.modules.update(before)


def is_config(name):
  return name.partition('.')[0] == 'configs'


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def read(*arguments):
  """The config of a command line."""
  argv = ['main.py', *arguments]
  values = define(argv)
  values(argv)
  return values.config


def run(*arguments):
  return command_line.run(['main.py', *arguments])


def error_of(capsys):
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  return line


BROKEN = 'def get_config(arg=""):\n  raise ValueError("another base")\n'


@pytest.mark.parametrize(
  'files',
  [['configs/base.py'], ['configs/base.py', 'configs/__init__.py'], ['configs.py']],
  ids=['namespace', 'package', 'module'],
)
def test_a_built_in_config_imports_the_built_in_base(files, outside, capsys):
  """Even if the working directory has a `configs` of its own."""
  for name in files:
    write(outside / name, BROKEN + 'attention = None\n')
  assert run('--mode=train', '--help', '--config=eca', f'{BRANCH}.name=se') == 0
  assert f'{BRANCH}.name=se' in capsys.readouterr().out
  assert configs.load('compare').baseline == 'resnet'


def test_a_folder_with_the_name_of_a_config_is_none(outside):
  (outside / 'eca').mkdir()
  assert read('--config=eca').model.attention.branch.name == 'eca'


def test_an_own_config_imports_its_own_neighbors_first(outside):
  """The built-in ones come next; the `__init__.py` of a package `configs` is executed."""
  write(outside / 'configs' / '__init__.py', 'SEED = 3\n')
  write(
    outside / 'configs' / 'base.py',
    'from configs import SEED, resnet\n\n'
    'def get_config(arg=""):\n  raise ValueError("by a built-in one")\n\n'
    'def own():\n  from configs.presets.recipes import RECIPES\n  return SEED, sorted(RECIPES)\n',
  )
  text = (
    'from ml_collections import ConfigDict\n'
    'from configs import base\n\n'
    'def get_config(arg=""):\n  return ConfigDict({"found": base.own()})\n'
  )
  for name in ('configs/mine.py', 'mine.py'):
    write(outside / name, text)
    seed, recipes = read(f'--config={name}').found
    assert seed == 3 and 'quick' in recipes
  assert read('--config=eca').seed == 0


def test_an_own_config_imports_what_lies_in_the_working_directory(outside):
  write(outside / 'own_helper.py', 'SEED = 7\n')
  write(
    outside / 'mine.py',
    'import own_helper\nfrom configs import base\n\n'
    'def get_config(arg=""):\n'
    '  config = base.get_config(arg)\n  config.seed = own_helper.SEED\n  return config\n',
  )
  assert run('--mode=train', '--help', '--config=mine.py') == 0
  assert sys.path.count(str(outside)) == 1
  assert read('--config=mine.py').seed == 7


@pytest.mark.parametrize(
  ('flag', 'typed'),
  [
    ('--config=ecaa', '--config=eca?'),
    ('--config=configs/ecaa.py', '--config=eca?'),
    ('--config=configs/cbam.py', '--config=cbam?'),
    (f'--config={ROOT}/configs/ecaa.py', '--config=eca?'),
    ('--config=mien.py', '--config=mine.py?'),
    ('--config=nothing_like_it.py', 'allowed: aa, additive'),
  ],
)
def test_hints_are_what_a_user_types(flag, typed, outside, capsys):
  write(outside / 'mine.py', '')
  write(outside / 'configs' / 'cbam_of_mine.py', '')
  assert run(flag) == 2
  line = error_of(capsys)
  assert typed in line and 'attn_flax/configs' not in line
  assert '/' not in line.partition('allowed: ')[2]


@pytest.mark.parametrize(
  'words',
  [
    ['--config.train.steps=1'],
    ['--config.train.steps', '1'],
    ['--noconfig.data.balanced'],
    ['--mode=evaluate', '--workdir=runs/x', '--config.train.steps=1'],
  ],
)
def test_a_field_needs_a_config(words, capsys):
  assert run(*words) == 2
  line = error_of(capsys)
  assert re.search(r'--config\.[\w.]+ needs a config .*--config=eca', line)


def test_fields_come_in_the_order_of_the_base_config(capsys):
  source = (ROOT / 'configs' / 'base.py').read_text()
  expected = list(dict.fromkeys(re.findall(r'^  config\.([\w.]+) = (?!ConfigDict)', source, re.M)))
  assert len(expected) > 70
  assert run('--mode=train', '--help', '--config=eca') == 0
  listed = re.findall(r'^--config\.([\w.]+)=', capsys.readouterr().out, re.M)
  entry = [field for field in listed if '.branch.' in field]
  assert [field.rpartition('.')[2] for field in entry][:4] == ['name', 'stages', 'every', 'start']
  at = expected.index('model.name') + 1
  assert listed == expected[:at] + entry + expected[at:]


def test_fields_of_a_study_come_before_those_that_its_runs_share(capsys):
  assert run('--mode=compare', '--help', '--config=compare:smoke') == 0
  listed = re.findall(r'^--config\.([\w.]+)=', capsys.readouterr().out, re.M)
  groups = list(dict.fromkeys('.'.join(field.split('.')[:2]) for field in listed))
  assert groups[:4] == ['baseline', 'variants.cbam', 'variants.eca', 'select']
  shared = [field.startswith('base.') for field in listed]
  assert shared == sorted(shared) and any(shared)
  variants = [field.split('.')[1] for field in listed if field.startswith('variants.')]
  assert variants == sorted(variants)


@pytest.mark.parametrize(
  'given', [[f'{BRANCH}.name=cbam'], [f'{BRANCH}.name', 'cbam'], [f'-{BRANCH[1:]}.name=cbam']]
)
def test_another_mechanism_has_its_own_fields(given):
  entry = read('--config=se', *given).model.attention.branch
  from configs import base

  assert entry.to_dict() == base.attention('cbam').to_dict()
  assert entry.is_locked


def test_fields_of_another_mechanism_are_set_and_checked():
  config = read(
    '--config=se', f'{BRANCH}.name=cbam', f'{BRANCH}.ratio=4', f'{BRANCH}.kernel_size=3'
  )
  entry = config.model.attention.branch
  assert (entry.ratio, entry.kernel_size, entry.order) == (4, 3, 'channel_first')
  (placement,) = make_model(config.model, 10).attention
  assert dict(placement.fields)['kernel_size'] == 3
  for field in ('divisor=1', 'ratio=many'):  # A field of SE only, and a value that is not a number.
    with pytest.raises(Exception, match=field.partition('=')[0]):
      read('--config=se', f'{BRANCH}.name=cbam', f'{BRANCH}.{field}')


def test_the_same_mechanism_keeps_its_fields():
  assert read('--config=se', f'{BRANCH}.name=se') == read('--config=se')


def test_the_place_of_a_mechanism_stays(outside):
  write(
    outside / 'mine.py',
    'from configs import base\n\n'
    'def get_config(arg=""):\n'
    '  config = base.get_config(arg)\n'
    '  config.model.attention.branch = base.attention(\n'
    '    "eca", gamma=3.0, every=2, stages=(1, 2), start="identity"\n  )\n'
    '  return config\n',
  )
  entry = read('--config=mine.py', f'{BRANCH}.name=se').model.attention.branch
  assert entry.to_dict() == {
    'name': 'se', 'every': 2, 'stages': (1, 2), 'start': 'identity',
    'ratio': 16, 'bias': True, 'divisor': 1,
  }  # fmt: skip
  config = read('--config=mine.py', f'{BRANCH}.name=se', f'{BRANCH}.every=1', f'{BRANCH}.stages=3')
  assert (config.model.attention.branch.every, config.model.attention.branch.stages) == (1, (3,))


def test_a_variant_of_a_study_takes_another_mechanism():
  config = read('--config=compare:smoke', '--config.variants.cbam.branch.name=se')
  assert set(config.variants.cbam.branch) == {
    *('name', 'every', 'stages', 'start'), *('ratio', 'bias', 'divisor')
  }  # fmt: skip
  assert config.variants.eca == read('--config=compare:smoke').variants.eca


@pytest.fixture
def gates(outside, monkeypatch):
  write(outside / 'own_branch_gates.py', GATE)
  monkeypatch.syspath_prepend(outside)
  return 'own_branch_gates:MyGate'


def test_an_own_class_takes_the_place_of_a_mechanism(gates):
  config = read('--config=eca', f'{BRANCH}.name={gates}')
  assert set(config.model.attention.branch) == {'name', 'every', 'stages', 'start'}
  (placement,) = make_model(config.model, 10).attention
  assert placement.module.__name__ == 'MyGate' and dict(placement.fields) == {}


def test_an_own_class_takes_the_fields_that_are_given(gates):
  fields = [f'{BRANCH}.ratio=4', f'{BRANCH}.kind=other']
  config = read('--config=eca', f'{BRANCH}.name={gates}', *fields)
  (placement,) = make_model(config.model, 10).attention
  assert dict(placement.fields) == {'ratio': 4, 'kind': 'other'}


def test_an_own_class_refuses_fields_that_it_lacks(gates):
  """Such as those of the mechanism that it replaces."""
  config = read('--config=eca', f'{BRANCH}.name={gates}', f'{BRANCH}.gamma=2.0')
  with pytest.raises(
    UserError, match="unknown field of own_branch_gates:MyGate 'gamma'.*kind, ratio"
  ):
    make_model(config.model, 10)


def test_an_own_class_that_a_config_names_takes_fields_that_the_config_leaves_out(gates, outside):
  write(
    outside / 'mine.py',
    'from configs import base\n\n'
    'def get_config(arg=""):\n'
    '  config = base.get_config(arg)\n'
    f'  config.model.attention.branch = base.attention("{gates}", kind="mine")\n'
    '  return config\n',
  )
  config = read('--config=mine.py', f'{BRANCH}.ratio=8')
  (placement,) = make_model(config.model, 10).attention
  assert dict(placement.fields) == {'ratio': 8, 'kind': 'mine'}


def test_a_place_without_attention_is_named(capsys):
  assert run('--config=resnet', f'{BRANCH}.name=se') == 2
  assert 'branch' in error_of(capsys)


def test_a_run_with_another_mechanism_goes_on_and_is_scored(
  gates, outside, small_dataset, quick_compilation, capsys
):
  """The run folder records the mechanism with only its own fields."""
  command = [
    '--config=eca:smoke', f'{BRANCH}.name={gates}', f'{BRANCH}.ratio=4',
    '--config.train.steps=2', '--config.model.depths=(1,)', '--config.model.widths=(8,)',
  ]  # fmt: skip
  assert run(*command, '--workdir=run') == 0
  assert run(*command, '--workdir=run') == 0
  assert 'nothing to do' in capsys.readouterr().out
  entry = run_files.read(outside / 'run', 'config.json')['config']['model']['attention']['branch']
  assert entry['name'] == gates and entry['ratio'] == 4 and 'gamma' not in entry
  assert run('--mode=evaluate', '--workdir=run') == 0
  capsys.readouterr()
  assert run(*command[:2], f'{BRANCH}.ratio=5', *command[3:], '--workdir=run') == 2
  assert 'ratio: 4 there, 5 asked' in error_of(capsys)


def test_flags_may_lie_in_a_file(outside, capsys):
  write(outside / 'flags.txt', '--config=se\n--config.model.attention.branch.name=cbam\n')
  assert run('--mode=train', '--help', '--flagfile=flags.txt') == 0
  assert f'{BRANCH}.name=cbam' in capsys.readouterr().out
  assert run('--flagfile=nowhere.txt') == 2
  assert 'nowhere.txt' in error_of(capsys)


def test_of_a_field_that_is_given_twice_the_last_value_counts():
  argv = ['main.py', '--config=eca', '--config.model.depths=(1,)', '--config.seed=1']
  argv += ['--config.model.depths=(2,2)', '--config.seed', '3']
  argv = configs.without_repeats(argv)
  values = define(argv)
  values(argv)
  assert values.config.model.depths == (2, 2) and values.config.seed == 3
