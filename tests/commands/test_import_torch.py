"""Weights from PyTorch become a run folder that every mode accepts."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import rule
import run_files
from PIL import Image

from attn_flax import from_torch
from attn_flax.attention import ATTENTION
from attn_flax.commands import command_line
from attn_flax.commands.import_torch import model_config
from attn_flax.training import run_folder
from attn_flax.training.experiment import make_model

ROOT = pathlib.Path(__file__).parents[2]
NAME = 'cbam_repo-cifar10-resnet18-CBAM-no_spatial'

pytestmark = pytest.mark.usefixtures('small_dataset', 'quick_compilation')


@pytest.mark.parametrize(
  'name',
  [
    NAME,
    'timm-legacy_seresnet50',
    'timm-seresnext26t_32x4d',
    'timm-wide_resnet50_2',
    'cbam_repo-cifar10-resnet50-BAM',
    'eca_repo-resnet34-k3357',
  ],
)
def test_the_config_of_an_imported_network_builds_it_again(name):
  """Even after it was saved as JSON, where tuples become lists."""
  from configs import base

  model, _ = from_torch(rule.load(name)[0])
  config = base.get_config()
  config.model.update(model_config(model))
  again = make_model(run_folder.ConfigDict(json.loads(json.dumps(config.model.to_dict()))), 10)
  assert again == model
  assert all(p.module in ATTENTION.values() for p in again.attention)


@pytest.fixture(scope='module')
def imported(tmp_path_factory, small_dataset):
  folder = tmp_path_factory.mktemp('imported')
  np.savez(folder / 'weights.npz', **rule.load(NAME)[0])
  flags = ['--mode=import', f'--torch={folder}/weights.npz', f'--workdir={folder}/run']
  config = f'--config={ROOT}/configs/resnet.py:smoke'
  assert command_line.run(['main.py', *flags, config, '--config.eval.batch_size=50']) == 0
  return folder


def test_it_is_evaluated(imported, capsys):
  assert command_line.run(['main.py', '--mode=evaluate', f'--workdir={imported}/run']) == 0
  result = json.loads(capsys.readouterr().out)
  assert result['step'] == 0 and result['test_count'] > 0
  assert run_files.read(imported / 'run', 'dataset.json')['class_names']


@pytest.mark.slow
def test_it_is_evaluated_on_images_that_have_moved(tmp_path, capsys):
  rng = np.random.default_rng(0)
  state = rule.load(NAME)[0]
  np.savez(tmp_path / 'weights.npz', **state)
  classes = len(state['fc.weight'])
  for split in ('train', 'val', 'test'):
    for label in range(classes):
      (tmp_path / 'images' / split / f'{label:03}').mkdir(parents=True)
      pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
      Image.fromarray(pixels).save(tmp_path / 'images' / split / f'{label:03}/0.png')
  flags = ['--mode=import', f'--torch={tmp_path}/weights.npz', f'--workdir={tmp_path}/run']
  config = [f'--config={ROOT}/configs/resnet.py:folder', f'--config.data.dir={tmp_path}/images']
  assert command_line.run(['main.py', *flags, *config]) == 0
  (tmp_path / 'images').rename(tmp_path / 'moved')
  evaluate = ['main.py', '--mode=evaluate', f'--workdir={tmp_path}/run']
  assert command_line.run(evaluate) == 2
  capsys.readouterr()
  assert command_line.run([*evaluate, f'--config.data.dir={tmp_path}/moved']) == 0
  assert json.loads(capsys.readouterr().out)['test_count'] == classes


def test_the_checkpoint_holds_the_weights(imported):
  state = rule.load(NAME)[0]
  arrays = run_files.state(imported / 'run', 0)
  kernel = [value for name, value in arrays.items() if 'stem_conv' in name and 'params' in name]
  np.testing.assert_array_equal(kernel[0], state['conv1.weight'].transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--torch=weights.npz'], 'needs --torch'),
    (['--workdir=run'], 'needs --torch'),
    (['--torch=nowhere.npz', '--workdir={folder}/other'], 'nowhere.npz'),
    (['--torch={folder}/weights.npz', '--workdir={folder}/run'], 'already holds a run'),
  ],
)
def test_mistakes(imported, capsys, flags, message):
  flags = [flag.format(folder=imported) for flag in flags]
  assert command_line.run(['main.py', '--mode=import', *flags]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1


def test_weights_without_a_head_are_sent_to_init_from(tmp_path, capsys):
  state = {k: v for k, v in rule.load(NAME)[0].items() if not k.startswith('fc.')}
  np.savez(tmp_path / 'weights.npz', **state)
  flags = ['--mode=import', f'--torch={tmp_path}/weights.npz', f'--workdir={tmp_path}/run']
  assert command_line.run(['main.py', *flags]) == 2
  assert f'--config.init_from={tmp_path}/weights.npz' in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


def test_a_stem_for_images_of_one_channel_is_refused(tmp_path, capsys):
  state = rule.load(NAME)[0]
  state['conv1.weight'] = state['conv1.weight'][:, :1]
  np.savez(tmp_path / 'weights.npz', **state)
  flags = ['--mode=import', f'--torch={tmp_path}/weights.npz', f'--workdir={tmp_path}/run']
  assert command_line.run(['main.py', *flags]) == 2
  assert 'images of 1 channel' in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


def test_another_number_of_classes_is_refused(tmp_path, capsys):
  np.savez(tmp_path / 'weights.npz', **rule.load('cbam_repo-cifar100-resnet18-CBAM')[0])
  flags = ['--mode=import', f'--torch={tmp_path}/weights.npz', f'--workdir={tmp_path}/run']
  assert command_line.run(['main.py', *flags]) == 2
  assert 'model.num_classes=100 differs from the 10 of the dataset' in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


def test_a_network_is_imported_before_its_dataset_is_there(tmp_path, capsys):
  np.savez(tmp_path / 'weights.npz', **rule.load('cbam_repo-cifar100-resnet18-CBAM')[0])
  flags = [f'--torch={tmp_path}/weights.npz', f'--workdir={tmp_path}/run']
  config = [f'--config={ROOT}/configs/resnet.py:cifar100', f'--config.data.dir={tmp_path}/none']
  assert command_line.run(['main.py', '--mode=import', *flags, *config]) == 0
  assert json.loads(capsys.readouterr().out)['dataset'].startswith('not opened')
  assert run_files.steps(tmp_path / 'run') == [0]


@pytest.mark.slow
def test_it_is_trained_further_by_its_folder_alone(imported, tmp_path, capsys):
  """Training starts from the imported weights, not from new ones."""
  shutil.copytree(imported / 'run', tmp_path / 'run')
  content = run_files.read(tmp_path / 'run', 'config.json')
  content['config']['train'] |= {'steps': 1, 'batch_size': 8}
  content['config']['optimizer']['lr_per_256'] = 1e-9
  content['config']['optimizer']['warmup_epochs'] = 0.0
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(content))
  assert command_line.run(['main.py', f'--workdir={tmp_path}/run']) == 0
  before, after = (
    run_files.state(folder, step) for folder, step in ((imported / 'run', 0), (tmp_path / 'run', 1))
  )
  name = next(n for n in before if 'stem_conv' in n and 'params' in n)
  np.testing.assert_allclose(after[name], before[name], atol=1e-6)
