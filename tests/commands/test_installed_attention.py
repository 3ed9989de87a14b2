"""A mechanism of an installed package, by its name on the command line."""

import sys

import pytest
import run_files

from attn_flax.commands import command_line

GATE = """
import flax.linen as nn


class MyGate(nn.Module):
  scale: float = 1.0

  @nn.compact
  def __call__(self, x, *, train):
    return x * self.param('factors', nn.initializers.constant(self.scale), x.shape[-1:])
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package as pip installs it, on Python's path."""
  site = tmp_path / 'site'
  info = site / 'my_gate-1.0.dist-info'
  info.mkdir(parents=True)
  (site / 'my_gate.py').write_text(GATE)
  (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: my_gate\nVersion: 1.0\n')
  (info / 'entry_points.txt').write_text('[attn_flax.attention]\nmy_gate = my_gate:MyGate\n')
  monkeypatch.syspath_prepend(site)
  yield
  monkeypatch.delitem(sys.modules, 'my_gate', raising=False)


def run(*arguments):
  return command_line.run(['main.py', *arguments])


@pytest.mark.usefixtures('package')
def test_its_cost_is_counted(capsys):
  flags = ['--models=resnet20', '--image_size=32', '--num_classes=10']
  assert run('--mode=cost', '--attentions=none,my_gate', *flags) == 0
  header, plain, gated = (line.split() for line in capsys.readouterr().out.splitlines())
  params = header.index('params')
  assert gated[:2] == ['resnet20', 'my_gate']
  assert int(gated[params]) - int(plain[params]) == 3 * (16 + 32 + 64)


@pytest.mark.usefixtures('package', 'small_dataset', 'quick_compilation')
def test_a_run_keeps_its_name(tmp_path, capsys):
  attention = '--config.model.attention.branch'
  flags = [f'{attention}.name=my_gate', f'{attention}.scale=0.5', '--config.train.steps=2']
  tiny = ['--config.model.depths=(1,)', '--config.model.widths=(8,)']
  workdir = f'--workdir={tmp_path}/run'
  assert run('--config=se:smoke', *flags, *tiny, workdir) == 0, capsys.readouterr().err
  stored = run_files.read(tmp_path / 'run', 'config.json')['config']['model']['attention']['branch']
  assert (stored['name'], stored['scale']) == ('my_gate', 0.5)
  assert any('factors' in name for name in run_files.state(tmp_path / 'run', 2))
  assert run('--mode=evaluate', workdir) == 0, capsys.readouterr().err
