"""Every family of networks trains through the command line with attention in it.

The networks are small, and in one run all places of a network hold a mechanism.
"""

import pathlib

import pytest
import run_files

from attn_flax import UserError, create_model, list_models
from attn_flax.commands import command_line

ROOT = pathlib.Path(__file__).parents[2]
# One network of each family; `smoke` makes it small.
FAMILIES = ('resnet50', 'wide_resnet18_2', 'resnext50_32x4d', 'wrn28_10', 'mnasnet_a1')

# Each place has a mechanism that fits very small feature maps and widths.
EVERYWHERE = """
import sys

sys.path.insert(0, {root!r})
from configs import base


def get_config(arg=''):
  config = base.get_config(arg)
  places = config.model.attention
  if config.model.groups is None:  # Grouped convolutions cannot be replaced.
    places.conv = base.attention('aa', heads=2, kappa=0.5, upsilon=0.5, min_key_dim=2)
  places.branch = base.attention('eca', start='identity')
  places.block = base.attention('non_local', every=1, subsample='none')
  places.stage = base.attention('bam', ratio=2, dilation=1)
  return config
"""

pytestmark = pytest.mark.usefixtures('small_dataset', 'quick_compilation')


def _train(workdir, config, family):
  flags = ('--config.train.steps=2', '--config.train.batch_size=8', '--config.eval.batch_size=50')
  return command_line.run(
    ['main.py', f'--config={config}:{family},smoke', *flags, f'--workdir={workdir}']
  )


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_trains_saves_and_resumes_with_attention_everywhere(family, tmp_path, stop_after):
  config = tmp_path / 'everywhere.py'
  config.write_text(EVERYWHERE.format(root=str(ROOT)))
  stop_after(1)
  assert _train(tmp_path / 'run', config, family) == 143
  stop_after(-1)
  assert _train(tmp_path / 'run', config, family) == 0
  assert run_files.read(tmp_path / 'run')['steps'] == 2
  names = ' '.join(run_files.state(tmp_path / 'run', 2))
  for place in ('branch_attention', 'block_attention', 'stage_attention'):
    assert place in names
  assert ('conv_attention' in names) == (family != 'resnext50_32x4d')


def test_vision_transformer_trains_and_resumes_without_batch_statistics(tmp_path, stop_after):
  stop_after(1)
  assert _train(tmp_path / 'run', ROOT / 'configs' / 'resnet.py', 'vit_tiny32') == 143
  stop_after(-1)
  assert _train(tmp_path / 'run', ROOT / 'configs' / 'resnet.py', 'vit_tiny32') == 0
  assert run_files.read(tmp_path / 'run')['test_count'] > 0


def test_a_grouped_convolution_is_not_replaced():
  with pytest.raises(UserError, match='no groups'):
    create_model('resnext50_32x4d', attention='aa')


@pytest.mark.parametrize('place', ['conv', 'branch', 'block', 'stage'])
def test_a_vision_transformer_refuses_attention_with_the_reason(place):
  name = 'aa' if place == 'conv' else 'se'
  with pytest.raises(UserError, match='it is made of attention'):
    create_model('vit_tiny32', attention={place: {'name': name}})


def test_every_network_belongs_to_a_family_tested_here():
  stems = ('resnet', 'wide_resnet', 'resnext', 'wrn', 'mnasnet_a1', 'vit')
  assert all(name.startswith(stems) for name in list_models())
