"""A task other than classification is trained, saved and scored through its `Task` record only."""

import ast
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
import run_files
from PIL import Image

from attn_flax.commands import command_line
from attn_flax.report import pages
from attn_flax.tasks import names
from attn_flax.tasks.task import Task
from attn_flax.training.checkpoints import Checkpoints, read_weights
from attn_flax.training.loop import train
from configs import base

ROOT = pathlib.Path(__file__).parents[2]


def brightness(setting=None):
  """Regression of the mean of the normalized image by the first output; a low error is good."""

  def errors(outputs, batch):
    return (outputs[:, 0] - batch['image'].mean((1, 2, 3))) ** 2

  def sums(outputs, batch):
    mask = batch.get('mask', jnp.ones(len(outputs)))
    return {'error': (errors(outputs, batch) * mask).sum(), 'count': mask.sum()}

  def scores(parts):
    parts = list(parts)
    count = sum(float(part['count']) for part in parts)
    error = sum(float(part['error']) for part in parts) / count
    return {'error': error, 'count': round(count)}

  def examples(predictions):
    return (predictions['guess'] - predictions['brightness']) ** 2

  return Task(
    name='brightness',
    loss=lambda outputs, batch: errors(outputs, batch).mean(),
    sums=sums,
    scores=scores,
    best='error',
    higher_is_better=False,
    logged=('error',),
    predictions=lambda outputs, batch: {
      'guess': outputs[:, 0],
      'brightness': batch['image'].mean((1, 2, 3)),
    },
    targets=('brightness',),
    examples=examples,
    further=lambda predictions: {'bias': float((predictions['guess']).mean())},
    summary=lambda predictions, _: ({'worst': float(examples(predictions).max())}, {}),
  )


@pytest.fixture(scope='module')
def finished(small_dataset, quick_compilation, tmp_path_factory):
  """The folder of a run of that task, over three epochs."""
  workdir = tmp_path_factory.mktemp('brightness') / 'run'
  config = base.get_config('smoke')
  config.task = 'brightness'
  config.model.depths, config.model.widths = (1,), (8,)
  config.train.steps, config.train.ema_decay = 15, 0.5
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(names.TASKS, 'brightness', brightness)
    train(config, workdir)
    yield workdir


def test_its_scores_are_logged_and_stored(finished):
  lines = run_files.metrics(finished)
  training = [line for line in lines if 'val_error' not in line]
  assert all(line['loss'] == pytest.approx(line['error'], rel=1e-5) for line in training)
  assert all('val_ema_error' in line for line in lines if 'val_error' in line)
  result = run_files.read(finished)
  assert result['test_error'] < 1 and result['test_worst'] >= result['test_error']
  assert not any('top' in name for line in [*lines, result] for name in line)
  with np.load(finished / 'predictions.npz') as stored:
    assert stored.files == ['guess', 'brightness', 'ema_guess']
    errors = (stored['guess'] - stored['brightness']) ** 2
  assert errors.mean() == pytest.approx(result['test_error'], rel=1e-4)


def test_the_lowest_error_is_the_best(finished):
  errors = {
    line['step']: line['val_error'] for line in run_files.metrics(finished) if 'val_error' in line
  }
  assert len(errors) == 3
  best = min(errors, key=errors.get)
  checkpoints = Checkpoints(finished, read_only=True)
  assert checkpoints.best() == best == run_files.read(finished)['best_step']
  checkpoints.close()
  assert set(read_weights(finished)) == {'params', 'batch_stats'}


def test_it_is_scored_again(finished, capsys):
  assert command_line.run(['main.py', '--mode=evaluate', f'--workdir={finished}']) == 0
  again = run_files.read(finished, 'evaluation.json')
  assert again['test_error'] == pytest.approx(run_files.read(finished)['test_error'], rel=1e-5)


@pytest.mark.parametrize('mode', ['predict', 'explain'])
def test_without_classes_there_is_none_to_predict_or_explain(finished, tmp_path, capsys, mode):
  Image.new('RGB', (32, 32)).save(tmp_path / 'one.png')
  words = [f'--mode={mode}', f'--workdir={finished}', f'--images={tmp_path}/one.png']
  assert command_line.run(['main.py', *words]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f'{finished} was trained for the task brightness, which predicts no class' in line


def test_without_pages_there_is_no_report(finished, tmp_path, capsys):
  folder = tmp_path / 'report'
  assert (
    command_line.run(['main.py', '--mode=compare', f'--workdirs={finished}', f'--workdir={folder}'])
    == 2
  )
  (line,) = capsys.readouterr().err.splitlines()  # Nothing is measured before.
  assert "unknown report pages 'brightness'" in line


def test_an_unknown_task_is_refused(small_dataset, tmp_path):
  config = base.get_config('smoke')
  config.task = 'clasification'
  with pytest.raises(ValueError, match="unknown task 'clasification'; did you mean 'classif"):
    train(config, tmp_path / 'run')


@pytest.mark.parametrize('word', ['top1', 'top-1', 'cross_entropy'])
def test_only_classification_and_its_pages_speak_of_accuracy(word):
  for path in sorted((ROOT / 'attn_flax').rglob('*.py')):
    if path.name != 'classification.py':
      assert word not in path.read_text(), path


def test_the_report_says_nothing_of_classification_elsewhere():
  """Only the docstrings do, where they give examples."""
  words = re.compile('accurac|confusion|top-?5|correctly classified', re.IGNORECASE)
  for path in sorted((ROOT / 'attn_flax' / 'report').rglob('*.py')):
    if path.name != 'classification.py':
      tree = ast.parse(path.read_text())
      documented = ast.Module | ast.FunctionDef | ast.ClassDef
      docs = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
      }
      for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs:
          assert not words.search(node.value), (path, node.value)


@pytest.mark.parametrize('name', names.TASKS)
def test_a_task_has_the_name_that_it_is_found_by(name):
  assert names.find_task(name).name == name


@pytest.mark.parametrize('name', pages._PAGES)
def test_a_report_prints_the_best_score_in_percent_where_it_is_a_share(name):
  is_share = names.find_task(name).best_range == (0, 1)
  assert pages._PAGES[name].wording.best.is_share == is_share
