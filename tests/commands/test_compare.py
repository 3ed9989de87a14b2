"""`--mode=compare` from the command line to the report, with tiny networks."""

import csv
import json

import numpy as np
import pytest
import run_files

from attn_flax.commands import command_line
from attn_flax.training import artifacts
from configs import compare

STEPS = 12
SMALL = (
  '--config=configs/compare.py:smoke',
  '--config.select=cbam',
  '--config.seeds=0,1',
  f'--config.base.train.steps={STEPS}',
  '--config.report.perturbed_images=3',
  '--config.report.steps=2',
  '--config.report.pictures=2',
  '--config.report.rounds=2',
)

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('small_dataset', 'quick_compilation'),
]


def run(*arguments):
  return command_line.run(['main.py', *map(str, arguments)])


@pytest.fixture(scope='module')
def finished(small_dataset, quick_compilation, tmp_path_factory):
  folder = tmp_path_factory.mktemp('studies') / 'compare'
  assert run('--mode=compare', *SMALL, f'--workdir={folder}') == 0
  return folder


def table(folder):
  with open(folder / 'results.csv', newline='') as file:
    return {row['variant']: row for row in csv.DictReader(file)}


def test_the_report_holds_what_the_runs_hold(finished):
  """The report's accuracies are those in the result files of the runs."""
  rows = table(finished)
  assert list(rows) == ['resnet', 'cbam']
  for name, row in rows.items():
    top1 = [run_files.read(finished / name / f'seed{k}')['test_top1'] for k in (0, 1)]
    assert float(row['top1_mean']) == pytest.approx(np.mean(top1), abs=1e-6)
    assert int(row['params']) == run_files.read(finished / name / 'seed0')['params']
    assert int(row['macs']) == run_files.read(finished / name / 'seed0')['macs']
  assert rows['cbam']['verdict'] == 'not enough seeds'
  assert float(rows['resnet']['step_ratio']) == 1
  text = (finished / 'report.md').read_text()
  assert 'not enough seeds' in text and '# Attention in resnet20 on cluttered' in text
  for condition in ('trained with versions', 'measured with versions', 'measured in'):
    assert f'| {condition} | ' in text
  html = (finished / 'report.html').read_text()
  assert all(f'{name}/seed{k}' in html for name in rows for k in (0, 1))
  assert list((finished / 'plots').glob('*.png'))


def test_a_finished_study_trains_nothing_again(finished, capsys, monkeypatch):
  from attn_flax.study import train

  monkeypatch.setattr(train, 'train', lambda *_: pytest.fail('trained again'))
  before = table(finished)
  assert run('--mode=compare', *SMALL, f'--workdir={finished}') == 0
  after = table(finished)
  assert after['cbam']['top1_mean'] == before['cbam']['top1_mean']


def test_existing_runs_are_reported_on(finished, tmp_path):
  folders = f'{finished}/resnet/seed0,{finished}/cbam'  # A run, and a folder of runs.
  small = '--config=configs/compare.py:smoke', *SMALL[4:]
  assert run('--mode=compare', f'--workdirs={folders}', *small, f'--workdir={tmp_path}') == 0
  assert list(table(tmp_path)) == ['resnet', 'cbam']


def test_without_a_usable_baseline_there_is_a_report_without_verdicts(finished, tmp_path):
  from attn_flax.report.write import write_report
  from attn_flax.study import groups, measure

  found, baseline = groups.of_folders([finished])
  found['resnet'] = [one._replace(error='the loss is nan') for one in found['resnet']]
  options = compare.get_config('smoke').report
  options.images, options.perturbed_images, options.rounds, options.steps = 20, 4, 2, 2
  write_report(measure.measure(found, baseline, options), tmp_path)
  text = (tmp_path / 'report.md').read_text()
  assert 'No run of resnet, the baseline, has finished.' in text and 'the loss is nan' in text
  rows = table(tmp_path)
  assert rows['cbam']['verdict'] == 'not enough seeds' and float(rows['cbam']['step_ratio']) > 0
  assert rows['resnet']['top1_mean'] == '' and float(rows['resnet']['step_ratio']) == 1


def test_runs_that_were_not_trained_alike_are_refused(finished, tmp_path, capsys):
  changed = tmp_path / 'changed'
  (changed / 'checkpoints' / '3').mkdir(parents=True)
  content = json.loads((finished / 'cbam' / 'seed0' / 'config.json').read_text())
  content['config']['train']['batch_size'] = 32
  artifacts.write_json(changed / 'config.json', content)
  assert run('--mode=compare', f'--workdirs={finished}/resnet/seed0,{changed}') == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert 'train.batch_size: 32 and 64' in error


def test_a_study_is_not_trained_as_one_run(capsys):
  assert run('--config=configs/compare.py:smoke') == 2
  assert '--mode=compare' in capsys.readouterr().err
  assert run('--mode=compare', '--config=configs/eca.py') == 2
  assert '--config=compare' in capsys.readouterr().err
