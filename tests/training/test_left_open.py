"""What a config leaves open is chosen by the data, and stays the same once a run has begun."""

import functools
import pathlib

import jax
import numpy as np
import pytest
import run_files
from PIL import Image

from attn_flax.commands import command_line
from attn_flax.commands.import_torch import model_config
from attn_flax.errors import UserError
from attn_flax.models import create_model
from attn_flax.training import artifacts, left_open, run_folder
from attn_flax.training.experiment import open_experiment
from configs import base, cbam

ROOT = pathlib.Path(__file__).parents[2]


def photographs(folder, count, side=64, classes=('ant', 'bee')):
  """Makes a folder of images of noise, `count` in each class of each split."""
  rng = np.random.default_rng(0)
  for split in ('train', 'val', 'test'):
    for name in classes:
      below = folder / split / name
      below.mkdir(parents=True)
      for i in range(count):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(below / f'{i}.png')
  return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.mark.parametrize(
  ('images', 'parts', 'batch'),
  [
    (228, 1, 16),
    (1000, 1, 32),
    (1100, 1, 64),
    (1_281_167, 1, 64),
    (10, 1, 8),
    (1, 1, 1),
    (228, 8, 16),
    (228, 6, 18),
    (228, 32, 32),
  ],
)
def test_a_batch_suits_the_number_of_images_and_of_devices(images, parts, batch):
  assert left_open.batch_size(images, parts) == batch


@pytest.mark.parametrize(
  ('updates_per_epoch', 'fresh', 'trained'),
  [(1, 200, 50), (14, 200, 50), (40, 100, 20), (5004, 30, 10)],
)
def test_epochs_make_about_as_many_updates_whatever_the_number_of_images(
  updates_per_epoch, fresh, trained
):
  assert left_open.epochs(updates_per_epoch, trained=False) == fresh
  assert left_open.epochs(updates_per_epoch, trained=True) == trained


@pytest.mark.parametrize(
  ('network', 'size', 'stem'),
  [
    ('resnet18', 32, 'cifar'),
    ('resnet50', 64, 'cifar'),
    ('resnet50', 95, 'cifar'),
    ('resnet18', 96, 'imagenet'),
    ('resnet18', 224, 'imagenet'),
    ('mnasnet_a1', 64, 'cifar'),
    ('resnet20', 8, 'cifar'),
    ('vit_tiny32', 32, None),
  ],
)
def test_the_stem_leaves_something_of_small_images(network, size, stem):
  config = base.get_config()
  model = left_open.with_stem(create_model(network), config, size)
  assert getattr(model, 'stem', None) == stem
  if stem is not None:
    config.model.stem = 'imagenet'
    given = create_model(network, stem='imagenet')
    assert left_open.with_stem(given, config, size) == given


def test_the_stem_of_trained_weights_counts(tmp_path):
  config = base.get_config('resnet18')
  config.init_from = str(tmp_path / 'weights.pth')
  assert left_open.with_stem(create_model('resnet18'), config, 64).stem == 'imagenet'
  config.init_from = str(tmp_path)
  begun = base.get_config('resnet18')
  begun.model.stem = 'deep'
  artifacts.write_json(tmp_path / 'config.json', {'config': run_folder.resolved(begun)})
  assert left_open.with_stem(create_model('resnet18'), config, 64).stem == 'deep'
  assert left_open.with_stem(create_model('resnet50'), base.get_config(), 64).stem == 'cifar'


def test_an_imported_network_keeps_its_stem():
  assert model_config(create_model('resnet18', num_classes=7))['stem'] == 'imagenet'


def test_a_few_hundred_photographs_are_opened_by_the_plain_command(tmp_path):
  config = cbam.get_config('folder,resnet18')
  config.data.dir = str(photographs(tmp_path / 'images', 60))
  experiment = open_experiment(config)
  settled = experiment.config
  assert (settled.train.batch_size, settled.train.epochs) == (16, 200)
  assert experiment.updates == 200 * 7 and settled.model.stem == experiment.model.stem == 'cifar'
  assert config.train.batch_size is None  # The config of the user does not change.
  assert not experiment.augmentation.mixes
  told = left_open.notes(config, settled, experiment.model, 120)
  assert [line.split(':')[0] for line in told] == [
    '120 training images',
    '120 training images are few for training from random weights; --config.init_from=<run folder '
    'or PyTorch file> starts from trained ones',
    'images of 64 pixels',
  ]
  assert 'batches of 16 for 200 epochs' in told[0] and 'stem=imagenet it has 2x2' in told[2]

  config.model.stem, config.train.batch_size, config.train.epochs = 'imagenet', 8, 2
  config.init_from = str(tmp_path)
  experiment = open_experiment(config)
  assert (experiment.config.train.batch_size, experiment.updates) == (8, 30)
  (line,) = left_open.notes(config, experiment.config, experiment.model, 120)
  assert 'end in a feature map of 2x2' in line and '--config.model.stem=cifar makes it 8x8' in line


def test_notes_say_what_the_run_does():
  """The number of updates counts before that of epochs, and what was asked for is no choice."""

  def told(**fields):
    asked = base.get_config('resnet20')
    asked.train.batch_size = asked.train.epochs = None
    for name, value in fields.items():
      asked.train[name] = value
    config = left_open.with_batches(asked, 60, 1)
    return left_open.notes(asked, config, create_model('resnet20'), 60)

  start = '60 training images: batches of'
  assert told()[0].startswith(f'{start} 16 for 200 epochs; --config.train.batch_size and --config')
  assert told(steps=60)[0] == (
    f'{start} 16 for 60 updates; --config.train.batch_size chooses another'
  )
  assert told(batch_size=4)[0] == f'{start} 4 for 200 epochs; --config.train.epochs chooses another'
  assert not told(steps=60, batch_size=4)


@pytest.mark.parametrize('network', ['resnet18', 'mnasnet_a1'])
@pytest.mark.parametrize('size', [33, 64, 70, 95, 100])
@pytest.mark.parametrize('stem', ['imagenet', 'cifar'])
def test_the_side_that_is_said_is_that_of_the_map(network, size, stem):
  config = base.get_config(network)
  config.model.stem, config.data.size = stem, size
  config.init_from = 'weights.pth'
  model = create_model(network, stem=stem)
  without_head = model.clone(num_classes=None)
  image = jax.ShapeDtypeStruct((1, size, size, 3), 'float32')
  maps, _ = jax.eval_shape(
    functools.partial(without_head.init_with_output, train=False), jax.random.key(0), image
  )
  side = list(maps.values())[-1].shape[1]
  lines = [line for line in left_open.notes(config, config, model, 9000) if 'feature map' in line]
  assert len(lines) == (side < 4 and stem != 'cifar')
  assert all(f'in a feature map of {side}x{side},' in line for line in lines)


def test_images_that_the_usual_stem_cannot_take_are_said():
  config = base.get_config('resnet18')
  config.data.size = 16
  model = left_open.with_stem(create_model('resnet18'), config, 16)
  (line,) = [x for x in left_open.notes(config, config, model, 9000) if 'stem' in x]
  assert line.endswith('with --config.model.stem=imagenet images need 32 pixels or more')


def test_a_recipe_for_many_images_says_what_suits_few(tmp_path):
  config = cbam.get_config('folder,resnet18,modern')
  config.data.dir = str(photographs(tmp_path / 'images', 10, 32))
  with pytest.raises(UserError, match='batch_size=256 exceeds the 20 .* 20 at most, or take the'):
    open_experiment(config)


@pytest.mark.usefixtures('quick_compilation')
def test_a_run_goes_on_as_it_began_and_scores_other_data(tmp_path, capsys):
  """A run keeps its choices where others would be made today; other data may be small."""
  images = photographs(tmp_path / 'images', 16, 16)
  command = [
    'main.py',
    f'--config={ROOT}/configs/resnet.py:folder',
    '--config.model.depths=(1,1)',
    '--config.model.widths=(8,8)',
    '--config.train.steps=2',
    f'--workdir={tmp_path}/run',
  ]
  assert command_line.run([*command, f'--config.data.dir={images}']) == 0
  told = capsys.readouterr().out
  assert (
    '32 training images: batches of 16 for 2 updates; --config.train.batch_size chooses' in told
  )
  assert "the stem 'cifar' is taken" in told
  lines = run_files.metrics(tmp_path / 'run')
  assert not any('top5' in name for line in lines for name in line)
  with np.load(tmp_path / 'run/predictions.npz') as stored:
    files, labels = stored['files'].tolist(), stored['labels'].tolist()
  assert sorted(files) == sorted(
    f'test/{name}/{i}.png' for name in ('ant', 'bee') for i in range(16)
  )
  assert [file.split('/')[1] for file in files] == ['ant'] * 16 + ['bee'] * 16
  assert labels == [0] * 16 + [1] * 16

  content = run_files.read(tmp_path / 'run', 'config.json')
  assert content['config']['model']['stem'] == 'cifar'
  content['config']['train']['epochs'] = 123  # As another version might have chosen.
  artifacts.write_json(tmp_path / 'run/config.json', content)
  assert command_line.run([*command, f'--config.data.dir={images}']) == 0
  assert 'nothing to do' in capsys.readouterr().out

  other = photographs(tmp_path / 'other', 2, 16)
  assert command_line.run([*command, '--mode=evaluate', f'--config.data.dir={other}']) == 0
  assert run_files.read(tmp_path / 'run', 'evaluation.json')['test_count'] == 4


def test_of_another_network_the_stem_is_not_taken_over(tmp_path):
  stored = base.get_config('resnet18')
  stored.model.stem = 'imagenet'
  artifacts.write_json(tmp_path / 'config.json', {'config': run_folder.resolved(stored)})
  assert left_open.as_begun(base.get_config('resnet18'), tmp_path).model.stem == 'imagenet'
  assert left_open.as_begun(base.get_config('vit_tiny32'), tmp_path).model.stem is None
  with_own = base.get_config('resnet18')
  with_own.model.stem = 'deep'
  assert left_open.as_begun(with_own, tmp_path).model.stem == 'deep'
