"""The command line: every config trains to a result, is resumed, and is scored again."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import run_files
import small_data
from config_files import FILES

from attn_flax import data
from attn_flax.commands import command_line, flags
from attn_flax.commands.workdir import workdir

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = [path.stem for path in FILES]
STEPS = 3


def _one_per_place():
  """The first config for each place of attention."""
  found = {}
  for name in CONFIGS:
    namespace = {}
    exec((ROOT / 'configs' / f'{name}.py').read_text(), namespace)
    for place in namespace['get_config']().model.attention:
      found.setdefault(place, name)
  return found.values()


# One config for each place of attention, and those of the README, run with the default tests.
QUICK = {'resnet', 'eca', *_one_per_place()}
EACH_CONFIG = [
  pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CONFIGS
]

pytestmark = pytest.mark.usefixtures('small_dataset', 'quick_compilation')


def run(*arguments):
  """The exit code of a command line."""
  return command_line.run(['main.py', *map(str, arguments)])


def config_flag(name):
  return f'--config={ROOT}/configs/{name}.py:smoke'


def command_of(name):
  return config_flag(name), f'--config.train.steps={STEPS}'


@pytest.fixture(scope='module')
def finished(small_dataset, quick_compilation, tmp_path_factory):
  """A function from a config's name to the folder of its finished run."""

  @functools.cache
  def finish(name):
    workdir = tmp_path_factory.mktemp('finished') / name
    assert run(*command_of(name), f'--workdir={workdir}') == 0
    return workdir

  return finish


@pytest.mark.parametrize('name', EACH_CONFIG)
def test_every_config_runs_to_its_result(name, finished):
  workdir = finished(name)
  result = run_files.read(workdir)
  assert run_files.scores(workdir).keys() == {
    f'test_{score}' for score in ('loss', 'top1', 'top5', 'count')
  }
  assert result['test_count'] == small_data.SIZES['test']
  assert result['steps'] == result['best_step'] == STEPS
  assert result['params'] > 10_000 and result['macs'] > 1_000_000
  assert result['compile_seconds'] > 0
  assert result['images_per_second'] == pytest.approx(STEPS * 64 / result['train_seconds'])


@pytest.mark.parametrize('name', EACH_CONFIG)
def test_the_run_folder_says_what_was_run(name, finished):
  workdir = finished(name)
  content = run_files.read(workdir, 'config.json')
  assert content['config']['train']['steps'] == STEPS
  places = content['config']['model']['attention']
  arrays = ' '.join(run_files.state(workdir, STEPS))
  assert all(f'{place}_attention' in arrays for place in places)
  assert bool(places) == (name != 'resnet')
  assert content['packages']['jax'] == jax.__version__
  assert {'platform', 'device', 'device_count', 'commit', 'command', 'date'} <= content.keys()
  dataset = run_files.read(workdir, 'dataset.json')
  assert dataset['class_names'] == [str(digit) for digit in range(10)]
  assert dataset['image_shape'] == [32, 32, 3]
  assert len(dataset['mean']) == len(dataset['std']) == 3
  assert run_files.steps(workdir) == [STEPS]


@pytest.mark.parametrize('name', EACH_CONFIG)
def test_predictions_give_the_scores_of_the_result(name, finished):
  """Loss, top-1 and top-5 follow from logits and labels, in NumPy's double precision."""
  workdir = finished(name)
  result = run_files.read(workdir)
  with np.load(workdir / 'predictions.npz') as arrays:
    logits, labels = arrays['logits'].astype(np.float64), arrays['labels']
  count = small_data.SIZES['test']
  assert logits.shape == (count, 10) and labels.shape == (count,)
  assert np.bincount(labels).tolist() == [count // 10] * 10
  own = logits[np.arange(count), labels]
  losses = np.log(np.exp(logits).sum(1)) - own
  rank = (logits > own[:, None]).sum(1)
  assert result['test_loss'] == pytest.approx(losses.mean(), rel=1e-5)
  assert result['test_top1'] == pytest.approx((rank < 1).mean(), rel=1e-6)
  assert result['test_top5'] == pytest.approx((rank < 5).mean(), rel=1e-6)


@pytest.mark.parametrize('name', EACH_CONFIG)
def test_metrics_are_written_twice_alike(name, finished):
  """JSON lines and TensorBoard events hold the same numbers, up to TensorBoard's float32."""
  workdir = finished(name)
  lines = run_files.metrics(workdir)
  train, val = ([line for line in lines if loss in line] for loss in ('loss', 'val_loss'))
  assert [line['step'] for line in train] == [line['step'] for line in val] == [STEPS]
  assert train[0].keys() == {
    'step', 'loss', 'top1', 'top5', 'lr', 'grad_norm', 'images_per_second'
  }  # fmt: skip
  assert val[0].keys() == {'step', 'val_loss', 'val_top1', 'val_top5', 'val_count'}
  assert val[0]['val_count'] == small_data.SIZES['validation']
  expected = {
    tag: {line['step']: np.float32(value)}
    for line in lines
    for tag, value in line.items()
    if tag != 'step'
  }
  assert run_files.events(workdir) == expected


@pytest.mark.parametrize('name', EACH_CONFIG)
def test_a_finished_run_is_left_alone(name, finished, capsys):
  workdir = finished(name)
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob('*')}
  assert run(*command_of(name), f'--workdir={workdir}') == 0
  assert 'finished run, nothing to do' in capsys.readouterr().out
  assert {path: path.stat().st_mtime_ns for path in workdir.rglob('*')} == before


@pytest.mark.parametrize('name', EACH_CONFIG)
def test_evaluate_gives_the_scores_of_the_result(name, finished, capsys):
  workdir = finished(name)
  assert run('--mode=evaluate', f'--workdir={workdir}') == 0
  printed = json.loads(capsys.readouterr().out)
  result = run_files.read(workdir)
  assert printed['step'] == result['best_step']
  assert run_files.scores(workdir).items() <= printed.items()
  assert printed.items() <= run_files.read(workdir, 'evaluation.json').items()


def test_evaluate_scores_other_splits(finished, capsys):
  workdir = finished('resnet')
  assert run('--mode=evaluate', f'--workdir={workdir}', '--split=validation') == 0
  printed = json.loads(capsys.readouterr().out)
  logged = run_files.metrics(workdir)[-1]
  assert printed['validation_loss'] == logged['val_loss']
  assert printed['validation_count'] == small_data.SIZES['validation']
  assert printed['validation_loss'] != run_files.read(workdir)['test_loss']


@pytest.mark.parametrize('name', EACH_CONFIG)
def test_a_stopped_run_goes_on_to_the_same_result(name, finished, tmp_path, stop_after, capfd):
  """SIGTERM saves and exits with 143, and the same command resumes; for each place of attention."""
  expected = finished(name)
  capfd.readouterr()
  workdir = tmp_path / 'run'
  command = [*command_of(name), f'--workdir={workdir}']
  stop_after(2)
  assert run(*command) == 143
  assert capfd.readouterr().err.splitlines() == [
    'stopping after this update; a second signal ends the run at once',
    f'stopped after update 2 of 3, saved in {workdir}; the same command goes on from there',
  ]
  assert run_files.steps(workdir) == [2] and not (workdir / 'result.json').exists()
  assert run(*command) == 0
  run_files.assert_same_arrays(run_files.state(workdir, 3), run_files.state(expected, 3))
  assert run_files.scores(workdir) == run_files.scores(expected)


def test_every_update_crops_its_images_anew(tmp_path, monkeypatch):
  """With a single image and a learning rate of 0, only the crops can change the loss."""
  load = data.load

  def load_one_image(*args, **kwargs):
    dataset = load(*args, **kwargs)
    train = dataset.splits['train']
    image = np.repeat(train.image[:1], len(train), axis=0)
    train = dataclasses.replace(train, image=image, label=np.zeros_like(train.label))
    return dataclasses.replace(dataset, splits=dataset.splits | {'train': train})

  monkeypatch.setattr(data, 'load', load_one_image)
  tiny = ['--config.model.depths=(1,)', '--config.model.widths=(8,)', '--config.log_every=1']
  still = ['--config.optimizer.lr_per_256=0.0', '--config.train.steps=3']
  assert run(config_flag('resnet'), *tiny, *still, f'--workdir={tmp_path}/run') == 0
  losses = [line['loss'] for line in run_files.metrics(tmp_path / 'run') if 'loss' in line]
  assert len(set(losses)) == 3
  assert np.ptp(losses) < 0.1  # The network is the same.


def workdir_of(*arguments):
  """The folder that a command line runs in."""
  argv = ['main.py', *arguments]
  values = flags.define(argv)
  values(argv)
  return workdir(values)


def test_two_commands_never_share_a_run_folder():
  """Unless they have the same config; the same command always has the same folder."""
  eca = f'--config={ROOT}/configs/eca.py'
  commands = [
    [eca],
    [f'{eca}:smoke'],
    [f'{eca}:resnet18,smoke'],
    [config_flag('se')],
    [eca, '--config.train.epochs=9'],
    [eca, '--config.train.epochs=10'],
    [eca, '--config.train.steps=9'],
    [eca, '--config.train.epochs=9', '--config.seed=1'],
    [eca, '--config.seed=9', '--config.train.epochs=1'],
    [f'{eca}:smoke', '--config.train.epochs=9'],
    [eca, '--config.model.depths=(1,2,3)'],
    [eca, '--config.model.depths=(3,2,1)'],
    [eca, '--config.model.attention.branch.stages=(1,)'],
    [eca, '--config.optimizer.nesterov=false'],
    [eca, '--noconfig.optimizer.decay_all'],
    [eca, '--config.model.stem=cifar'],
  ]
  folders = [workdir_of(*command) for command in commands]
  assert len(set(folders)) == len(folders)
  assert [workdir_of(*command) for command in commands] == folders
  names = ['eca', 'eca-smoke', 'eca-resnet18-smoke']
  assert folders[:3] == [pathlib.Path('runs') / name for name in names]
  seed, epochs = '--config.seed=1', '--config.train.epochs=9'
  assert workdir_of(eca, seed, epochs) == workdir_of(eca, epochs, seed)
  assert workdir_of(eca, seed, '--workdir=here') == pathlib.Path('here')


def test_help_lists_the_flags(capsys):
  assert run('--help') == 0
  out = capsys.readouterr().out
  for flag in ('--config', '--mode', '--workdir', '--split'):
    assert flag in out


def test_the_process_exits_with_the_code(tmp_path):
  """A user's mistake ends `python main.py` with code 2 and one line."""
  command = [sys.executable, str(ROOT / 'main.py'), '--mode=evaluate', '--workdir=nowhere']
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
  assert done.returncode == 2
  assert done.stderr.count('\n') == 1 and 'nowhere/config.json does not exist' in done.stderr


STUDY = ['main.py', f'--config={ROOT}/configs/compare.py:quick', '--mode=compare']


def folder_of(*options):
  return workdir_of(*STUDY[1:], *options)


def test_a_study_stays_in_its_folder_whatever_is_asked_of_its_runs():
  expected = pathlib.Path('runs/compare-quick')
  assert folder_of() == expected
  for option in ('only=eca/seed1', 'seeds=0,1,2,3,4', 'select=eca,cbam', 'report.pictures=4'):
    assert folder_of(f'--config.{option}') == expected
  longer = folder_of('--config.base.train.epochs=20')
  assert longer != expected and longer.parent == expected.parent
  assert folder_of('--config.base.train.epochs=20', '--config.only=se/seed0') == longer
