"""A user's own mechanism, named by a string: from a module, a package, a config, a run."""

import importlib.metadata
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest
import run_files

from attn_flax import UserError, create_model, list_attention
from attn_flax.attention import ATTENTION, SE
from attn_flax.attention.names import attention_name, find_attention
from attn_flax.commands import command_line
from attn_flax.models.create import add_attention
from attn_flax.study.mechanisms import mechanisms
from configs import base

SOURCE = '''
import flax.linen as nn
import jax.numpy as jnp

limit = 3


class MyGate(nn.Module):
  """Scales the channels by learned factors."""

  scale: float = 1.0
  taps: tuple = (1,)

  @nn.compact
  def __call__(self, x, *, train):
    init = nn.initializers.constant(self.scale)
    return x * self.param('factors', init, x.shape[-1:]).astype(x.dtype)


class MyConv(nn.Module):
  where = 'conv'
  default_stages = slice(-1, None)

  features: int
  stride: int
  bias: bool

  @nn.compact
  def __call__(self, x):
    return nn.Conv(self.features, (1, 1), self.stride, use_bias=self.bias)(x)
'''
TINY = {'depths': (1, 1), 'widths': (4, 8), 'num_classes': 3}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A working directory that holds the module, under a name that no other test uses."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
  (tmp_path / 'own_gates.py').write_text(SOURCE)
  (tmp_path / 'own_broken.py').write_text('import no_such_package\n')
  (tmp_path / 'own_failing.py').write_text('1 / 0\n')
  yield tmp_path
  for name in ('own_gates', 'own_broken', 'own_failing'):
    sys.modules.pop(name, None)


@pytest.mark.usefixtures('folder')
def test_a_class_in_a_module_is_accepted_wherever_a_name_is():
  name = 'own_gates:MyGate'
  entry = {'name': name, 'scale': 0.5}
  models = [
    create_model('resnet20', attention=name, attention_kwargs={'scale': 0.5}, **TINY),
    create_model('resnet20', attention={'branch': entry}, **TINY),
    add_attention(create_model('resnet20', **TINY), {'branch': entry}),
    create_model('resnet20', attention={'branch': {**entry, 'name': find_attention(name)}}, **TINY),
  ]
  assert len(set(models)) == 1
  variables = models[0].init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  factors = variables['params']['stage2_block1']['branch_attention']['factors']
  assert factors.tolist() == [0.5] * 8


@pytest.mark.usefixtures('folder')
def test_what_its_class_declares_is_used():
  fields = {'bias': True}
  model = create_model('resnet20', attention='own_gates:MyConv', attention_kwargs=fields, **TINY)
  (placement,) = model.attention
  assert (placement.where, placement.stages, placement.every) == ('conv', (2,), 1)


@pytest.mark.usefixtures('folder')
def test_a_class_is_found_by_its_name_and_named_by_it():
  assert attention_name(find_attention('own_gates:MyGate')) == 'own_gates:MyGate'
  model = create_model('resnet20', attention='own_gates:MyGate', **TINY)
  assert [mechanism.name for mechanism in mechanisms(model)] == ['own_gates:MyGate']
  assert all(attention_name(module) == name for name, module in ATTENTION.items())


@pytest.mark.usefixtures('folder')
@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('own_gate:MyGate', "no module 'own_gate' in the working directory"),
    ('own_gates.deeper:MyGate', "importing 'own_gates.deeper' fails|no module 'own_gates.deeper'"),
    ('own_gates:MyGat', "unknown class of own_gates 'MyGat'; did you mean 'MyGate'"),
    ('own_gates:limit', "'own_gates:limit' is not a Flax module class"),
    ('own_broken:MyGate', "importing 'own_broken' fails .*No module named 'no_such_package'"),
    ('own_failing:MyGate', "importing 'own_failing' fails .ZeroDivisionError: division by zero"),
    ('own_failing:', "'own_failing:' is not of the form module:Class"),
    ('json:loads', 'is not a Flax module class'),
    ('json:gate', "unknown class of json 'gate'.*no Flax module"),
  ],
)
def test_what_cannot_be_found_is_named(name, message):
  with pytest.raises(UserError, match=message):
    create_model('resnet20', attention=name, **TINY)


@pytest.mark.usefixtures('folder')
@pytest.mark.parametrize(
  ('entry', 'message'),
  [
    ({'name': 'own_gates:MyGate', 'scael': 1.0}, "field of own_gates:MyGate 'scael'.*'scale'"),
    ({'name': 'own_gates:MyConv'}, 'own_gates:MyConv replaces a convolution'),
  ],
)
def test_its_fields_and_places_are_checked(entry, message):
  with pytest.raises(UserError, match=message):
    create_model('resnet20', attention={'branch': entry}, **TINY)


@pytest.mark.usefixtures('folder')
def test_a_field_that_is_missing_is_named():
  with pytest.raises(UserError, match="own_gates:MyConv needs its field 'bias'"):
    create_model('resnet20', attention='own_gates:MyConv', **TINY)


def _declare(monkeypatch, *entries):
  """Makes installed packages declare (name, value) pairs."""
  found = [importlib.metadata.EntryPoint(*entry, 'attn_flax.attention') for entry in entries]
  monkeypatch.setattr(
    importlib.metadata, 'entry_points', lambda group: found if 'attention' in group else []
  )


@pytest.mark.usefixtures('folder')
def test_an_installed_package_gives_names_of_its_own(monkeypatch):
  # Twice, as when a package is found in two folders of the path.
  _declare(monkeypatch, *[('gate_of_mine', 'own_gates:MyGate')] * 2)
  assert set(list_attention()) == {*ATTENTION, 'gate_of_mine'}
  model = create_model('resnet20', attention='gate_of_mine', **TINY)
  assert model == create_model('resnet20', attention='own_gates:MyGate', **TINY)
  with pytest.raises(UserError, match="did you mean 'gate_of_mine'"):
    create_model('resnet20', attention='gate_of_mien', **TINY)


@pytest.mark.parametrize(
  ('entries', 'taken'),
  [
    ([('se', 'own_gates:MyGate')], 'a built-in mechanism'),
    ([('mine', 'own_gates:MyGate'), ('mine', 'other:Gate')], 'own_gates:MyGate'),
  ],
)
def test_a_name_that_is_taken_is_refused(entries, taken, monkeypatch):
  _declare(monkeypatch, *entries)
  with pytest.raises(UserError, match=f'this name is taken by {taken}'):
    list_attention()
  assert find_attention('se') is SE


@pytest.mark.usefixtures('folder')
def test_an_entry_of_a_config_holds_the_fields_given():
  entry = base.attention('own_gates:MyGate', scale=0.5, taps=(1, 2))
  assert entry.to_dict() == {
    'name': 'own_gates:MyGate',
    'every': 1,
    'start': 'paper',
    'stages': None,
    'scale': 0.5,
    'taps': (1, 2),
  }
  entry.scale = 2.0
  with pytest.raises(AttributeError, match='sacle'):
    entry.sacle = 2.0
  create_model('resnet20', attention={'branch': entry.to_dict()}, **TINY)


@pytest.mark.usefixtures('small_dataset', 'quick_compilation')
def test_a_run_with_a_mechanism_of_its_own(folder, capsys):
  """It trains, resumes and is evaluated again by the name in the run folder."""
  (folder / 'mine.py').write_text(
    textwrap.dedent(
      """
      from configs import base

      def get_config(arg=''):
        config = base.get_config(arg)
        config.model.attention.branch = base.attention('own_gates:MyGate', every=1, scale=1.0)
        return config
      """
    )
  )
  run = ['main.py', f'--workdir={folder}/run']
  command = [f'--config={folder}/mine.py:smoke', '--config.model.attention.branch.scale=0.5']
  tiny = ['--config.model.depths=(1,)', '--config.model.widths=(8,)']
  schedule = ['--config.optimizer.schedule=constant']
  for steps in (2, 3):
    flags = [*run, *command, *tiny, *schedule, f'--config.train.steps={steps}']
    assert command_line.run(flags) == 0, capsys.readouterr().err
  stored = run_files.read(folder / 'run', 'config.json')['config']['model']['attention']['branch']
  assert (stored['name'], stored['scale']) == ('own_gates:MyGate', 0.5)
  assert run_files.read(folder / 'run')['steps'] == 3
  assert any('factors' in name for name in run_files.state(folder / 'run', 3))
  assert command_line.run([*run, '--mode=evaluate']) == 0, capsys.readouterr().err
