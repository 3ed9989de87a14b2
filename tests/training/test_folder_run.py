"""Runs on a folder of images, from the command line to the result."""

import json
import pathlib
import re
import shutil
import zlib

import numpy as np
import pytest
import run_files
from fake_catalog import encode
from ml_collections import ConfigDict

from attn_flax.commands import command_line
from attn_flax.errors import UserError
from attn_flax.study import groups, train
from attn_flax.study.plan import Planned
from attn_flax.tasks.classification import class_weights
from attn_flax.training import dataset_file, run_folder
from attn_flax.training.experiment import open_experiment
from configs import base

ROOT = pathlib.Path(__file__).parents[2]
# Unbalanced, with names whose alphabetical order is not that of their numbers.
COUNTS = {
  'train': {'class10': 6, 'class9': 20},
  'val': {'class10': 2, 'class9': 3},
  'test': {'class10': 2, 'class9': 5},
}

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def images(tmp_path):
  """A folder of noise."""
  for split, classes in COUNTS.items():
    for name, count in classes.items():
      folder = tmp_path / 'images' / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        rng = np.random.default_rng(zlib.crc32(f'{split}/{name}/{i}'.encode()))
        (folder / f'{i}.png').write_bytes(encode(rng.integers(0, 256, (32, 32, 3), np.uint8)))
  return tmp_path / 'images'


def command(images, workdir, *flags):
  return [
    'main.py',
    f'--config={ROOT}/configs/resnet.py:folder,quick,smoke',
    f'--config.data.dir={images}',
    '--config.model.depths=(1,)',
    '--config.model.widths=(8,)',
    '--config.train.batch_size=8',
    '--config.eval.batch_size=4',
    '--config.log_every=1',
    f'--workdir={workdir}',
    *flags,
  ]


@pytest.fixture
def tensorflow_is_there(tmp_path, monkeypatch):
  """A fake TensorFlow, which writes a file if it is imported."""
  package = tmp_path / 'stub/tensorflow'
  package.mkdir(parents=True)
  (package / '__init__.py').write_text(
    "import pathlib\npathlib.Path(__file__).with_name('imported').touch()\nraise ImportError\n"
  )
  monkeypatch.syspath_prepend(package.parent)
  yield
  assert not (package / 'imported').exists()


@pytest.mark.usefixtures('tensorflow_is_there')
def test_an_unbalanced_folder_is_scored_by_class(images, tmp_path, capsys):
  """The result has the accuracy of each class, and the run keeps the names of its classes."""
  against = ['--config.train.class_weights=True', '--config.data.balanced=True']
  asked = command(images, tmp_path / 'run', '--config.train.steps=2', *against)
  (images / 'train/class9/broken.png').write_bytes(b'')
  assert command_line.run(asked) == 2
  assert 'train/class9/broken.png: it is empty' in capsys.readouterr().err
  asked += ['--config.data.max_bad=1']
  assert command_line.run(asked) == 0
  *err, found = capsys.readouterr().err.splitlines()
  assert [line for line in err if 'skipped' in line] == [
    f'warning: skipped {images}/train/class9/broken.png: it is empty',
    f'warning: skipped 1 broken image of 39 in {images}',
  ]
  assert found.startswith(f'{images}: 2 classes; images: train 26 (train/), validation 5 (val/)')
  names = ['class9', 'class10']
  assert run_files.read(tmp_path / 'run', 'dataset.json')['class_names'] == names
  saved = json.loads((tmp_path / 'run/checkpoints/2/progress/metadata').read_text())
  assert saved['class_names'] == names
  result = run_files.read(tmp_path / 'run')
  with np.load(tmp_path / 'run/predictions.npz') as found:
    counts, labels, logits = (found[key] for key in ('confusion', 'labels', 'logits'))
  assert labels.tolist() == [0] * 5 + [1] * 2 and result['test_count'] == 7
  for true in range(2):
    for guessed in range(2):
      assert counts[true, guessed] == ((labels == true) & (logits.argmax(1) == guessed)).sum()
  own = [(logits.argmax(1) == labels)[labels == label].mean() for label in range(2)]
  assert list(result['test_per_class']) == names
  np.testing.assert_allclose(list(result['test_per_class'].values()), own)

  # One more image would change the order of images in the rest of the run.
  (tmp_path / 'run/result.json').unlink()
  added = images / 'train/class9/added.png'
  added.write_bytes((images / 'val/class9/0.png').read_bytes())
  assert command_line.run(asked) == 2
  assert 'the numbers of images of folder have changed' in capsys.readouterr().err
  added.unlink()

  # One more class would change the meaning of the labels.
  for split in COUNTS:
    (images / split / 'class8').mkdir()
    (images / split / 'class8/0.png').write_bytes((images / 'val/class9/0.png').read_bytes())
  before = json.loads((tmp_path / 'run/config.json').read_text())
  before['config']['model']['num_classes'] = (
    3  # Otherwise the head of the network would be refused first.
  )
  (tmp_path / 'run/config.json').write_text(json.dumps(before))
  assert command_line.run(asked) == 2
  err = capsys.readouterr().err.splitlines()
  assert re.search('the classes of folder have changed since .*; restore them, or', err[-1])


def test_balanced_batches_reach_the_training(images):
  config = base.get_config('folder,quick,smoke')
  config.data.dir, config.train.batch_size, config.data.enlarge = str(images), 26, True
  shares = {}
  for balanced in (False, True):
    config.data.balanced = balanced
    for size in (32, 100):  # Images kept on the device, and streamed ones.
      config.data.size = size
      experiment = open_experiment(ConfigDict(config.to_dict()))
      pipeline = experiment.train_pipeline()
      batches = pipeline.batches()
      inputs = next(batches)
      labels = pipeline.constants['label'][inputs['index']] if size == 32 else inputs['label']
      shares[balanced, size] = int((np.asarray(labels) == 1).sum())
      batches.close()
  assert shares == {(False, 32): 6, (False, 100): 6, (True, 32): 13, (True, 100): 13}
  weights = class_weights(experiment.dataset.splits['train'].label, 2)
  np.testing.assert_allclose(weights, [26 / 40, 26 / 12], rtol=1e-6)


def test_a_run_whose_images_have_moved_goes_on_to_the_same_end(
  images, tmp_path, stop_after, capsys
):
  """Also where the files are linked, or the folders of the splits have other names."""
  steps = '--config.train.steps=3'
  assert command_line.run(command(images, tmp_path / 'whole', steps)) == 0
  stop_after(2)
  assert command_line.run(command(images, tmp_path / 'parts', steps)) == 143
  moved = tmp_path / 'moved'
  images.rename(moved)
  (moved / 'val').rename(moved / 'Valid')
  assert command_line.run(command(moved, tmp_path / 'parts', steps)) == 0
  actual, expected = (run_files.state(tmp_path / name, 3) for name in ('parts', 'whole'))
  run_files.assert_same_arrays(actual, expected)
  assert run_files.read(tmp_path / 'parts', 'config.json')['config']['data']['dir'] == str(moved)

  # A finished run stores the new folder, too.
  capsys.readouterr()
  assert command_line.run(command(moved, tmp_path / 'whole', steps)) == 0
  assert 'holds a finished run, nothing to do' in capsys.readouterr().out
  assert command_line.run(['main.py', '--mode=evaluate', f'--workdir={tmp_path}/whole']) == 0
  scores = json.loads(capsys.readouterr().out)
  assert {name: scores[name] for name in run_files.scores(tmp_path / 'whole')} == pytest.approx(
    run_files.scores(tmp_path / 'whole'), rel=1e-5
  )


def test_the_runs_of_a_study_know_where_their_images_have_moved(images, tmp_path):
  config = base.get_config('folder,quick,smoke')
  config.train.batch_size, config.data.dir = 8, str(images)
  run = Planned('resnet', 0, config, tmp_path / 'run')
  experiment = open_experiment(config)
  run_folder.open_run(run.folder, experiment.config)
  dataset_file.write(run.folder, experiment.describe_data())
  config.data.dir = str(images.rename(tmp_path / 'moved'))
  train.check([run])
  assert run_folder.load_config(run.folder).data.dir == config.data.dir
  (tmp_path / 'moved/test/class9/0.png').unlink()
  shutil.copytree(tmp_path / 'moved', images)
  config.data.dir = str(images)
  with pytest.raises(UserError, match='another data.dir must hold the same images'):
    train.check([run])


def test_runs_on_the_same_images_are_compared_wherever_these_are(images, tmp_path):
  config = base.get_config('folder,quick,smoke')
  config.train.batch_size = 8
  places = {'plain': images, 'moved': tmp_path / 'moved', 'other': tmp_path / 'other'}
  for place in list(places.values())[1:]:
    shutil.copytree(images, place)
  (places['other'] / 'train/class9/0.png').write_bytes(
    (places['other'] / 'train/class9/1.png').read_bytes()
  )
  for seed, (name, place) in enumerate(places.items()):
    config.seed, config.data.dir = seed, str(place)
    experiment = open_experiment(config)
    folder = tmp_path / name / f'seed{seed}'
    run_folder.open_run(folder, experiment.config)
    dataset_file.write(folder, experiment.describe_data())
  shutil.rmtree(images)
  found, baseline = groups.of_folders([tmp_path / 'plain', tmp_path / 'moved'])
  assert len(found[baseline]) == 2
  assert groups.check_controlled(found, baseline).data.dir == str(tmp_path / 'moved')
  found, baseline = groups.of_folders([tmp_path / 'plain', tmp_path / 'other'])
  with pytest.raises(UserError, match='digest of the images: '):
    groups.check_controlled(found, baseline)


def test_a_file_that_cannot_be_removed_is_named(tmp_path):
  (tmp_path / 'result.json' / 'inside').mkdir(parents=True)
  with pytest.raises(UserError, match='result.json cannot be removed .*; remove it, or choose'):
    run_folder.remove_run(tmp_path)


def test_other_images_are_not_those_of_the_run(images, tmp_path, capsys):
  steps = '--config.train.steps=1'
  assert command_line.run(command(images, tmp_path / 'run', steps)) == 0
  (tmp_path / 'run/result.json').unlink()
  config = run_files.read(tmp_path / 'run', 'config.json')
  first, second = sorted((images / 'train/class9').iterdir())[:2]
  other = tmp_path / 'other'
  shutil.copytree(images, other)
  # The same number of images with the same names, one of them changed.
  for folder in (images, other):
    (folder / 'train/class9' / first.name).write_bytes(second.read_bytes())
  for folder, message in (
    (other, f"data.dir: '{images}' there, '{other}' asked.*must hold the same images"),
    (images, 'the images of folder have changed since .*dataset.json was written; restore them'),
  ):
    assert command_line.run(command(folder, tmp_path / 'run', steps)) == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])
  assert run_files.read(tmp_path / 'run', 'config.json') == config

  # A run of a version that stored no digest continues in the folder of its images.
  described = run_files.read(tmp_path / 'run', 'dataset.json')
  del described['content']
  (tmp_path / 'run/dataset.json').write_text(json.dumps(described))
  assert command_line.run(command(other, tmp_path / 'run', steps)) == 2
  assert command_line.run(command(images, tmp_path / 'run', steps)) == 0


def test_measured_values_are_those_of_the_run_and_its_predictions(images, tmp_path):
  steps = '--config.train.steps=1'
  asked = command(images, tmp_path / 'run', steps, '--config.data.normalize=measured')
  assert command_line.run(asked) == 0
  described = run_files.read(tmp_path / 'run', 'dataset.json')
  np.testing.assert_allclose(described['mean'], [0.5] * 3, atol=0.01)
  np.testing.assert_allclose(described['std'], [0.29] * 3, atol=0.01)
  assert (
    run_files.read(tmp_path / 'run', 'config.json')['config']['data']['normalize'] == 'measured'
  )
  experiment = open_experiment(run_folder.load_config(tmp_path / 'run'))
  assert list(experiment.augmentation.mean) == described['mean']


def test_a_test_set_without_a_class_is_scored(images, tmp_path, capsys):
  shutil.rmtree(images / 'test/class10')
  assert command_line.run(command(images, tmp_path / 'run', '--config.train.steps=1')) == 0
  warning = f"the test split, in {images}/test, has no images of 1 of 2 classes ('class10')"
  assert warning in capsys.readouterr().err
  result = run_files.read(tmp_path / 'run')
  assert result['test_count'] == 5
  assert result['test_per_class']['class9'] == pytest.approx(result['test_top1'])


@pytest.mark.slow
@pytest.mark.usefixtures('tensorflow_is_there')
def test_a_streamed_run_resumes_exactly_with_other_workers(images, tmp_path, stop_after):
  """Uninterrupted with threads, or stopped and continued with worker processes."""
  streamed = ['--config.train.steps=5', '--config.data.size=100', '--config.data.enlarge=True']
  assert command_line.run(command(images, tmp_path / 'whole', *streamed)) == 0
  stop_after(3)
  again = command(images, tmp_path / 'parts', *streamed)
  assert command_line.run([*again, '--config.data.workers=1']) == 143
  assert command_line.run([*again, '--config.data.workers=2']) == 0
  actual, expected = (run_files.state(tmp_path / name, 5) for name in ('parts', 'whole'))
  run_files.assert_same_arrays(actual, expected)
  assert run_files.scores(tmp_path / 'parts') == run_files.scores(tmp_path / 'whole')
