"""A study: its plan, what it trains, which runs it compares, and what it computes."""

import json
import pathlib
import types

import fake_catalog
import numpy as np
import pytest

from attn_flax import UserError, create_model
from attn_flax.attention.names import ATTENTION
from attn_flax.commands.compare import compare as compare_study
from attn_flax.report import facts
from attn_flax.report.tables.classification import class_shares
from attn_flax.study import (
  conditions,
  groups,
  measure,
  mechanisms,
  performance,
  pictures,
  plan,
  scores,
  train,
)
from attn_flax.study.explain import Explained
from attn_flax.study.explanations import SCORES
from attn_flax.study.findings import Variant
from attn_flax.tasks.classification import classification
from attn_flax.training import run_folder
from attn_flax.training.experiment import make_model
from attn_flax.training.stopping import Stopped
from configs import compare, placement, ratio

TASK = classification()


@pytest.fixture
def study():
  return compare.get_config('smoke')


def test_a_study_is_all_variants_and_seeds_the_baseline_first(study):
  planned = plan.plan(study, pathlib.Path('runs/compare'))
  names = [run.name for run in planned]
  assert names[:4] == ['resnet/seed0', 'cbam/seed0', 'eca/seed0', 'resnet/seed1']
  assert len(set(names)) == 9
  assert planned[1].folder == pathlib.Path('runs/compare/cbam/seed0')


def test_runs_differ_in_attention_and_seed_alone(study):
  planned = plan.plan(study, pathlib.Path('runs'))
  first = run_folder.resolved(planned[0].config)
  for run in planned[1:]:
    changed = run_folder.difference(first, run_folder.resolved(run.config))
    assert all(field == 'seed' or field.startswith('model.attention') for field in changed)
    assert run.config.seed == run.seed
    assert run.config.model.attention == study.variants[run.variant]


@pytest.mark.parametrize('file', [compare, placement, ratio])
@pytest.mark.parametrize('argument', ['', 'quick', 'smoke', 'quick,resnet18'])
def test_every_study_can_be_planned(file, argument):
  study = file.get_config(argument)
  planned = plan.plan(study, pathlib.Path('runs'))
  assert len(planned) == len(study.variants) * len(study.seeds)
  assert planned[0].variant == study.baseline


def test_the_quick_study_is_that_of_the_example_report():
  study = compare.get_config('quick')
  assert set(study.variants) == {'resnet', 'se', 'eca', 'cbam', 'bam', 'aa', 'eca_cbam'}
  assert study.seeds == (0, 1, 2) and study.base.train.epochs == 10


def test_a_recipe_that_is_asked_for_stands():
  plain, modern = compare.get_config('quick'), compare.get_config('quick,modern')
  assert plain.base.optimizer.name == 'adamw'
  assert modern.base.optimizer.name == 'sgd' and modern.base.train.epochs == 300
  assert modern.base.train.ema_decay == 0.9998


@pytest.mark.parametrize('argument', ['smoke,quick', 'nonsense'])
def test_words_that_make_no_sense_are_refused(argument):
  with pytest.raises(ValueError, match='quick|nonsense'):
    compare.get_config(argument)


def test_some_variants_may_be_selected(study):
  study.select = ('eca',)
  assert plan.variants(study) == ['resnet', 'eca']
  study.select = ('eac',)
  with pytest.raises(UserError, match="'eac'.*did you mean 'eca'"):
    plan.variants(study)
  study.select = ('resnet',)
  with pytest.raises(UserError, match='no variant but its baseline'):
    plan.variants(study)


def test_one_run_may_be_trained_alone(study):
  study.only = 'eca/seed2'
  (run,) = plan.plan(study, pathlib.Path('runs'))
  assert (run.variant, run.seed) == ('eca', 2)
  study.only = 'eca/seed7'
  with pytest.raises(UserError, match="unknown only 'eca/seed7'; did you mean 'eca/seed"):
    plan.plan(study, pathlib.Path('runs'))


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('rounds', 0),
    ('steps', 0),
    ('perturbed_images', 0),
    ('pictures', 0),
    ('pictures', 500),
    ('images', 0),
    ('seed', -1),
    ('query', (0.5, 2.0)),
  ],
)
def test_an_impossible_report_is_refused_before_training(study, tmp_path, field, value):
  study.report[field] = value
  with pytest.raises(UserError, match=f'report.{field}'):
    compare_study(study, tmp_path)


@pytest.mark.parametrize('seeds', [(), (1, 1), (-1, 0)])
def test_impossible_seeds_are_refused(study, seeds):
  study.seeds = seeds
  with pytest.raises(UserError, match='seeds'):
    plan.plan(study, pathlib.Path('runs'))


def fake_training(monkeypatch, fail=(), stop=None):
  """Replaces training by writing a result; returns the folders that were 'trained'."""
  trained = []

  def write_result(config, folder):
    if stop is not None and len(trained) == stop:
      raise Stopped('stopped')
    trained.append(folder)
    if folder.parent.name in fail:
      raise UserError('loss is nan at update 7')
    folder.mkdir(parents=True)
    # Higher rates give better scores, except for one variant.
    rate = config.optimizer.lr_per_256
    score = 1 - rate if 'eca' in str(folder) else rate
    rows = [{'step': 1, 'val_top1': 0.0}, {'step': 2, 'val_top1': score}, {'step': 3, 'loss': 1.0}]
    (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    (folder / 'result.json').write_text('{}')

  monkeypatch.setattr(train, 'train', write_result)
  return trained


def test_only_what_is_missing_is_trained(study, tmp_path, monkeypatch, capsys):
  trained = fake_training(monkeypatch)
  planned = plan.plan(study, tmp_path)
  assert train.train_missing(planned[:3]) == {}
  assert train.train_missing(planned) == {}
  assert trained == [run.folder for run in planned]
  printed = capsys.readouterr().out
  assert 'run 4 of 9: resnet/seed1' in printed and 'left' in printed


def test_a_failed_run_does_not_end_the_study(study, tmp_path, monkeypatch):
  fake_training(monkeypatch, fail=['cbam'])
  planned = plan.plan(study, tmp_path)
  errors = train.train_missing(planned)
  assert errors == {f'cbam/seed{k}': 'loss is nan at update 7' for k in range(3)}
  assert sum(train.finished(run.folder) for run in planned) == 6


def test_an_interrupt_ends_the_study(study, tmp_path, monkeypatch):
  trained = fake_training(monkeypatch, stop=2)
  with pytest.raises(Stopped):
    train.train_missing(plan.plan(study, tmp_path))
  assert len(trained) == 2


def test_the_sweep_takes_the_best_rate_of_each_variant(study, tmp_path, monkeypatch):
  fake_training(monkeypatch)
  monkeypatch.setattr(train, 'check', lambda runs: TASK)
  assert train.sweep(study, tmp_path) is None
  study.sweep.lr_per_256 = (0.1, 0.4, 0.2)
  rates = train.sweep(study, tmp_path)
  assert rates == {'resnet': 0.4, 'cbam': 0.4, 'eca': 0.1}
  written = json.loads((tmp_path / 'sweep.json').read_text())
  assert written['chosen'] == rates
  assert written['validation_top1']['eca'] == {'0.1': 0.9, '0.4': 0.6, '0.2': 0.8}
  planned = plan.plan(study, tmp_path, rates)
  assert {run.config.optimizer.lr_per_256 for run in planned if run.variant == 'eca'} == {0.1}
  assert {run.seed for run in plan.plan_sweep(study, tmp_path)}.isdisjoint(study.seeds)


def test_the_sweep_of_one_run_is_that_of_its_variant(study, tmp_path, monkeypatch):
  trained = fake_training(monkeypatch)
  monkeypatch.setattr(train, 'check', lambda planned: TASK)
  study.sweep.lr_per_256, study.only = (0.1, 0.4), 'eca/seed1'
  rates = train.sweep(study, tmp_path)
  assert rates == {'eca': 0.1}
  study.only = 'cbam/seed0'
  train.sweep(study, tmp_path)
  written = json.loads((tmp_path / 'sweep.json').read_text())
  assert written['chosen'] == {'eca': 0.1, 'cbam': 0.4}
  study.only = 'eca/seed1'
  assert {folder.parent.name for folder in trained} == {'eca', 'cbam'}
  (run,) = plan.plan(study, tmp_path, rates)
  assert run.config.optimizer.lr_per_256 == 0.1


def test_a_moving_average_is_what_a_sweep_chooses_by(tmp_path):
  rows = [{'step': 1, 'val_top1': 0.5, 'val_ema_top1': 0.25}, {'step': 2, 'loss': 1.0}]
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  assert train.best_validation(tmp_path, TASK) == 0.25


def test_an_impossible_sweep_is_refused(study, tmp_path):
  study.sweep.lr_per_256 = (0.1, 0.1)
  with pytest.raises(UserError, match='fewer than two different rates'):
    plan.plan_sweep(study, tmp_path)
  study.sweep.lr_per_256 = (0.1, 0.2)
  study.sweep.seed = 1
  with pytest.raises(UserError, match='is also one of seeds'):
    plan.plan_sweep(study, tmp_path)


def make_folder(path, config, *, seed=0, finished=True, **changes):
  """A run folder with only the files that `groups` reads."""
  content = run_folder.resolved(config)
  content['seed'] = seed
  for field, value in changes.items():
    section, name = field.split('__')
    content[section][name] = value
  (path / 'checkpoints' / '3').mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps({'config': content, 'command': 'python main.py'}))
  (path / 'metrics.jsonl').write_text('')
  if finished:
    (path / 'result.json').write_text('{}')
  return path


@pytest.fixture
def base_config(study):
  return plan.run_config(study, 'resnet', 0, None)


@pytest.fixture
def eca_config(study):
  return plan.run_config(study, 'eca', 0, None)


def test_folders_that_differ_in_the_seed_are_one_variant(tmp_path, base_config, eca_config):
  folders = [
    make_folder(tmp_path / 'eca' / 'seed1', eca_config, seed=1),
    make_folder(tmp_path / 'eca' / 'seed0', eca_config),
    make_folder(tmp_path / 'plain', base_config),
    make_folder(tmp_path / 'unfinished', base_config, seed=3, finished=False),
  ]
  found, baseline = groups.of_folders(folders)
  assert list(found) == [baseline, 'eca']
  assert [member.seed for member in found['eca']] == [0, 1]
  assert [member.error for member in found[baseline]] == ['', 'not finished']
  groups.check_controlled(found, baseline)


def test_variants_are_called_as_their_commands_call_them(tmp_path, base_config, eca_config):
  """A command with `--config.seed=1` gets a folder with a hash after the name."""
  folders = [
    make_folder(tmp_path / 'plain-1f', base_config, seed=1),
    make_folder(tmp_path / 'plain', base_config),
    make_folder(tmp_path / 'eca', eca_config),
    make_folder(tmp_path / 'eca-2e', eca_config, seed=1),
  ]
  found, baseline = groups.of_folders(folders)
  assert baseline == 'plain' and list(found) == ['plain', 'eca']


def test_a_folder_of_runs_stands_for_them(tmp_path, base_config, eca_config):
  for variant, config in (('plain', base_config), ('eca', eca_config)):
    for seed in range(2):
      make_folder(tmp_path / variant / f'seed{seed}', config, seed=seed)
    make_folder(tmp_path / variant / 'sweep_lr0.1', config, optimizer__lr_per_256=0.1)
  for named in ([tmp_path], [tmp_path / 'eca', tmp_path / 'plain']):
    found, baseline = groups.of_folders(named)
    assert baseline == 'plain' and set(found) == {'plain', 'eca'}
    assert all([member.seed for member in members] == [0, 1] for members in found.values())


def test_where_all_have_attention_the_first_is_the_baseline(tmp_path, study, eca_config):
  cbam = plan.run_config(study, 'cbam', 0, None)
  folders = [make_folder(tmp_path / 'a', cbam), make_folder(tmp_path / 'b', eca_config)]
  assert groups.of_folders(folders)[1] == 'a'


@pytest.mark.parametrize(
  ('changes', 'named'),
  [
    ({'train__batch_size': 32}, 'train.batch_size: 32 and 64'),
    ({'optimizer__weight_decay': 0.0}, 'optimizer.weight_decay'),
    ({'model__widths': [4, 8, 16]}, 'model.widths'),
  ],
)
def test_runs_that_differ_in_more_are_not_compared(
  tmp_path, base_config, eca_config, changes, named
):
  folders = [
    make_folder(tmp_path / 'plain', base_config),
    make_folder(tmp_path / 'eca', eca_config, **changes),
  ]
  with pytest.raises(UserError, match='cannot be compared') as error:
    groups.check_controlled(*groups.of_folders(folders))
  assert named in str(error.value)


def test_a_swept_rate_and_what_has_no_effect_may_differ(tmp_path, base_config, eca_config):
  changes = {'data__workers': 2, 'optimizer__lr_per_256': 0.1}
  folders = [
    make_folder(tmp_path / 'plain', base_config),
    make_folder(tmp_path / 'eca', eca_config, **changes),
  ]
  found, baseline = groups.of_folders(folders)
  with pytest.raises(UserError, match='lr_per_256'):
    groups.check_controlled(found, baseline)
  groups.check_controlled(found, baseline, also=('optimizer.lr_per_256',))


def test_folders_that_cannot_be_grouped_are_refused(tmp_path, base_config, eca_config):
  plain = make_folder(tmp_path / 'plain', base_config)
  with pytest.raises(UserError, match='holds no run'):
    groups.of_folders([plain, tmp_path / 'nothing'])
  with pytest.raises(UserError, match='each seed once'):
    groups.of_folders([plain, make_folder(tmp_path / 'again', base_config)])
  eca = make_folder(tmp_path / 'eca', eca_config)
  other = make_folder(tmp_path / 'other' / 'eca', eca_config, train__batch_size=32)
  with pytest.raises(UserError, match="called 'eca'"):
    groups.of_folders([plain, eca, other])


def test_a_study_shows_why_runs_are_missing(study, tmp_path):
  planned = plan.plan(study, tmp_path)
  make_folder(planned[0].folder, planned[0].config)
  found = groups.of_plan(planned, {'cbam/seed0': 'loss is nan'})
  assert [member.error for member in found['resnet']] == ['', 'not trained yet', 'not trained yet']
  assert found['cbam'][0].error == 'loss is nan' and found['cbam'][0].seed == 0


def test_a_checkpoint_that_cannot_be_read_is_a_row(study, tmp_path, monkeypatch):
  planned = plan.plan(study, tmp_path)
  for run in planned:
    make_folder(run.folder, run.config, seed=run.seed)
  broken = planned[1].folder

  def read_weights(folder):
    if folder == broken:
      raise UserError('the checkpoint is damaged')

  monkeypatch.setattr(measure, 'read_weights', read_weights)
  found = measure._readable(groups.of_plan(planned, {'eca/seed2': 'loss is nan'}))
  errors = {name: [member.error for member in members] for name, members in found.items()}
  assert errors == {
    'cbam': ['the checkpoint is damaged', '', ''],
    'eca': ['', '', 'loss is nan'],
    'resnet': ['', '', ''],
  }


def test_a_study_without_its_baseline_is_still_measured(study, tmp_path, small_dataset):
  planned = plan.plan(study, tmp_path)
  for run in planned:
    make_folder(run.folder, train.open_experiment(run.config).config, seed=run.seed)
  failed = {run.name: 'loss is nan' for run in planned if run.variant == 'resnet'}
  opened = measure._open(groups.of_plan(planned, failed), 'resnet', study.report)
  assert opened.models.keys() == {'resnet', 'cbam', 'eca'}  # The baseline is timed, too.
  assert opened.members.keys() == {'cbam', 'eca'}
  everything = {run.name: 'loss is nan' for run in planned}
  with pytest.raises(UserError, match='no run can be evaluated.*loss is nan'):
    measure._open(groups.of_plan(planned, everything), 'resnet', study.report)


def random_predictions(rng, labels, strength, num_classes=7):
  logits = rng.normal(size=(len(labels), num_classes))
  logits[np.arange(len(labels)), labels] += strength
  return {'logits': logits, 'labels': labels}


def compare_performance(predictions, baseline='plain', task=TASK):
  first = next(run for runs in predictions.values() for run in runs.values())
  class_names = [f'class {k}' for k in range(first['logits'].shape[1])]
  return performance.compare(task, predictions, baseline, class_names)


def test_performance_is_that_of_the_predictions():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 7, 500)
  strengths = {'plain': 1.0, 'better': 3.0, 'same': 1.0}
  predictions = {
    name: {seed: random_predictions(rng, labels, strength) for seed in range(4)}
    for name, strength in strengths.items()
  }
  found = compare_performance(predictions)
  for name, variant in found.items():
    logits = [run['logits'] for run in predictions[name].values()]
    right = np.array([run.argmax(1) == labels for run in logits])
    assert variant.best.value == pytest.approx(right.mean())
    assert variant.best.spread == pytest.approx(right.mean(1).std(ddof=1))
    order = [np.argsort(-run, axis=1)[:, :5] for run in logits]
    fives = [(one == labels[:, None]).any(1).mean() for one in order]
    assert variant.further['top5'].value == pytest.approx(np.mean(fives))
    assert variant.further['top5'].spread == pytest.approx(np.std(fives, ddof=1))
    confusion = variant.arrays['confusion']
    assert confusion.shape == (4, 7, 7) and confusion.sum() == 4 * 500
    assert np.trace(confusion.sum(0)) == right.sum()
    by_class = [right[:, labels == label].mean() for label in range(7)]
    np.testing.assert_allclose(class_shares(confusion), by_class)
    scores = performance.run_scores(TASK, predictions[name][0])
    assert scores.keys() == {'top1', 'top5', 'calibration_error'}
    assert scores['top1'] == pytest.approx(right[0].mean())
  assert found['plain'].difference is None and found['plain'].verdict == ''
  assert found['better'].verdict == 'better'
  assert found['same'].verdict == 'no difference shown'
  assert found['better'].difference.mean == pytest.approx(
    found['better'].best.value - found['plain'].best.value
  )
  assert 0 < found['same'].detectable < 0.3


def test_of_a_task_where_lower_is_better_the_lower_score_is_better():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 7, 500)
  task = TASK._replace(
    best='error',
    higher_is_better=False,
    examples=lambda predictions: 1 - TASK.examples(predictions),
    further=lambda predictions: {},
    summary=lambda predictions, class_names: ({}, {}),
  )
  predictions = {
    name: {seed: random_predictions(rng, labels, strength) for seed in range(4)}
    for name, strength in (('plain', 1.0), ('better', 3.0))
  }
  found = compare_performance(predictions, task=task)['better']
  assert found.difference.mean < 0 and found.verdict == 'better'
  assert found.further == found.arrays == {}
  assert performance.run_scores(task, predictions['plain'][0]).keys() == {'error'}


def test_what_no_image_shows_is_not_known():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, 200)  # No image of class 4.
  runs = {seed: random_predictions(rng, labels, 2.0, num_classes=5) for seed in range(3)}
  (found,) = compare_performance({'plain': runs}).values()
  shares = class_shares(found.arrays['confusion'])
  assert np.isnan(shares[4]) and np.all(shares[:4] > 0)
  assert 'top5' not in found.further


def test_without_the_baseline_there_is_performance_and_no_verdict():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 7, 200)
  runs = {seed: random_predictions(rng, labels, 2.0) for seed in range(3)}
  found = compare_performance({'eca': runs})['eca']
  assert found.best.value > 0.4 and found.difference is None
  assert found.verdict == 'not enough seeds'


def test_differences_of_unsteady_training_stay_within_the_shares():
  """Three such seeds show no difference, and intervals stay within -1..1."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 7, 1000)
  strengths = {'plain': (2.0, 2.0, 2.0), 'steady': (2.1, 2.0, 2.1), 'unsteady': (0.0, 3.0, 9.0)}
  predictions = {
    name: {
      seed: random_predictions(rng, labels, strength) for seed, strength in enumerate(of_seeds)
    }
    for name, of_seeds in strengths.items()
  }
  found = compare_performance(predictions)['unsteady']
  assert found.detectable is None
  assert found.difference.low == -1 and found.difference.high == 1


def test_two_seeds_are_not_enough():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 7, 100)
  predictions = {
    name: {seed: random_predictions(rng, labels, strength) for seed in range(2)}
    for name, strength in (('plain', 0.5), ('better', 5.0))
  }
  found = compare_performance(predictions)['better']
  assert found.verdict == 'not enough seeds' and found.difference is None


def explained(rng, count, few, gain):
  """Scores of one run; on every image, that of the map is `gain` above that of the control."""
  chance = rng.uniform(size=count)
  sources = {'map': chance + gain, 'random map': chance}
  curve = {name: np.stack([values, values - 1], axis=1) for name, values in sources.items()}
  lower = {name: -values[:few] for name, values in sources.items()}
  return Explained(
    localization={'Grad-CAM': {'pointing': sources, 'iou': curve}},
    perturbation={'Grad-CAM': {'deletion': lower}},
    empty=np.arange(count) % 4 == 0,
    empty_random=np.arange(count) % 2 == 0,
  )


def test_scores_of_explanations_are_means_with_gains_over_the_controls():
  rng = np.random.default_rng(0)
  images = {
    seed: scores.SeedImages(np.sort(rng.choice(100, 40, replace=False)), np.arange(8))
    for seed in range(3)
  }
  runs_by_variant = {
    'plain': {seed: explained(rng, 40, 8, gain=0.5) for seed in range(3)},
    'sharper': {seed: explained(rng, 40, 8, gain=9.0) for seed in range(3)},
  }
  found = scores.summarize(runs_by_variant, images, 100, 'plain', {'sharper': ('gate',)})
  plain, sharper = found['plain'].scores['Grad-CAM'], found['sharper'].scores['Grad-CAM']
  values = [
    run.localization['Grad-CAM']['pointing']['map'] for run in runs_by_variant['plain'].values()
  ]
  assert plain['pointing'].value == pytest.approx(np.mean(values))
  assert plain['pointing'].images == 120 and plain['deletion'].images == 24
  assert plain['pointing'].gains['random map'].mean == pytest.approx(0.5)
  # Lower deletion is better, so its gain is positive, too.
  assert plain['deletion'].gains['random map'].mean == pytest.approx(0.5)
  # At the better of two thresholds, the same for all images.
  assert plain['iou'].value == pytest.approx(plain['pointing'].value)
  assert sharper['pointing'].verdict == 'better' and sharper['deletion'].verdict == 'better'
  assert sharper['pointing'].difference.mean == pytest.approx(
    sharper['pointing'].value - plain['pointing'].value
  )
  assert plain['pointing'].difference is None and plain['pointing'].verdict == ''
  assert found['plain'].empty == 0.25 and found['plain'].empty_random == 0.5
  assert found['sharper'].own_map == ('gate',)
  assert set(plain) <= set(SCORES)


def test_scores_are_compared_over_the_seeds_that_both_have():
  """Each seed has its own images, so a seed that one variant lacks is left out of the pair."""
  rng = np.random.default_rng(0)
  images = {seed: scores.SeedImages(np.arange(40), np.arange(8)) for seed in range(4)}
  # Without seed 0, on whose images the map is far better, baseline and variant are equal.
  plain = {seed: explained(rng, 40, 8, gain=9.0 if seed == 0 else 0.5) for seed in range(4)}
  other = {seed: plain[seed] for seed in (3, 1, 2)}
  found = scores.summarize({'plain': plain, 'other': other}, images, 40, 'plain', {})
  score = found['other'].scores['Grad-CAM']['pointing']
  assert score.difference.mean == pytest.approx(0, abs=1e-12) and score.difference.seeds == 3
  assert found['plain'].scores['Grad-CAM']['pointing'].value > score.value + 2


def test_a_confident_network_does_not_win_by_its_confidence():
  """The deletion score of a confident network is lower for every map, even a random one."""
  rng = np.random.default_rng(0)
  images = {seed: scores.SeedImages(np.arange(40), np.arange(8)) for seed in range(3)}
  plain = {seed: explained(rng, 40, 8, gain=0.5) for seed in range(3)}

  def shifted(run, score):
    sources = run[score]['Grad-CAM']
    return {'Grad-CAM': {n: {k: v - 0.7 for k, v in one.items()} for n, one in sources.items()}}

  other = {
    seed: run._replace(
      perturbation=shifted(run._asdict(), 'perturbation'),
      localization=shifted(run._asdict(), 'localization'),
    )
    for seed, run in plain.items()
  }
  found = scores.summarize({'plain': plain, 'other': other}, images, 40, 'plain', {})['other']
  deletion, pointing = (found.scores['Grad-CAM'][name] for name in ('deletion', 'pointing'))
  assert deletion.difference.mean == pytest.approx(0, abs=1e-12)
  assert deletion.verdict == 'no difference shown'
  assert pointing.difference.mean == pytest.approx(-0.7)


def test_without_scores_of_the_baseline_there_is_no_difference():
  """All runs of the baseline may have failed for the seeds with common images."""
  rng = np.random.default_rng(0)
  images = {0: scores.SeedImages(np.arange(40), np.arange(8))}
  found = scores.summarize({'other': {0: explained(rng, 40, 8, 0.5)}}, images, 40, 'plain', {})
  score = found['other'].scores['Grad-CAM']['pointing']
  assert score.difference is None and score.verdict == ''


def test_with_few_seeds_scores_have_no_intervals():
  rng = np.random.default_rng(0)
  images = {0: scores.SeedImages(np.arange(40), np.arange(8))}
  found = scores.summarize({'plain': {0: explained(rng, 40, 8, 0.5)}}, images, 40, 'plain', {})
  score = found['plain'].scores['Grad-CAM']['pointing']
  assert score.gains == {'random map': None} and np.isfinite(score.controls['random map'])


def test_pictured_images_are_of_many_classes_and_drawn_by_chance():
  labels = np.repeat(np.arange(5), 20)
  chosen = pictures.choose(labels, 5, seed=0)
  assert sorted(labels[chosen]) == [0, 1, 2, 3, 4]
  assert len(set(pictures.choose(labels, 12, seed=0))) == 12
  assert not np.array_equal(chosen, pictures.choose(labels, 5, seed=1))


def test_class_means_leave_out_what_no_image_has():
  values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
  found = pictures.class_means(values, np.array([0, 0, 2]), 3)
  np.testing.assert_array_equal(found, [[2.0, 3.0], [np.nan, np.nan], [5.0, 9.0]])


def test_a_folder_that_holds_another_run_ends_the_study_at_once(study, tmp_path, small_dataset):
  planned = plan.plan(study, tmp_path)[:2]
  resolved = {run.name: train.open_experiment(run.config).config for run in planned}
  for run in planned:
    make_folder(run.folder, resolved[run.name])
  train.check(planned)
  for run in planned:
    run.config.train.steps = 30
  with pytest.raises(UserError, match='train.steps: 20 there, 30 asked'):
    train.check(planned)


def test_each_run_says_how_to_make_it_again(tmp_path, base_config):
  make_folder(tmp_path, base_config)
  member = groups.of_folders([tmp_path])[0][tmp_path.name][0]
  study_command = 'python main.py --config=configs/compare.py --mode=compare'
  experiment = types.SimpleNamespace(task=TASK, updates_per_epoch=125)
  for command, expected in (
    ('python main.py --config=configs/eca.py', 'python main.py --config=configs/eca.py'),
    (study_command, f'{study_command} --config.only=eca/seed0'),
  ):
    recorded = member._replace(record={'command': command, 'device': 'cpu'})
    row = conditions.run_row('eca', recorded, {}, experiment)
    assert row.command == expected and row.scores == {}
    assert row.trained.device == 'cpu' and row.trained.commit is None
  assert conditions.run_row('eca', member._replace(record={}), {}, experiment).trained is None


def test_curves_are_means_between_validations(tmp_path):
  rows = [
    {'step': 10, 'loss': 2.0, 'top1': 0.25},
    {'step': 20, 'loss': 1.0, 'top1': 0.75},
    {'step': 20, 'val_loss': 1.5, 'val_top1': 0.5, 'val_top5': 1.0},
  ]
  path = tmp_path / 'metrics.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  assert conditions._curves(tmp_path, ('loss', 'top1'), 10) == {
    'train': [(2.0, {'loss': 1.5, 'top1': 0.5})],
    'validation': [(2.0, {'loss': 1.5, 'top1': 0.5})],
  }


def describe(model):
  shares = mechanisms.augmented_shares(model, (32, 32, 3))
  return facts.mechanism(Variant('', (), mechanisms.mechanisms(model), shares))


def test_mechanisms_are_described_by_what_is_unusual_in_them():
  def described(attention, **kwargs):
    return describe(create_model('resnet20', attention=attention, **kwargs))

  assert described(None) == 'none'
  assert described('eca') == 'eca at branch, stages 1, 2, 3'
  cbam = described('cbam', attention_kwargs={'ratio': 4})
  assert cbam == 'cbam at branch, stages 1, 2, 3, ratio=4'
  assert 'channel=eca, spatial=cbam' in described('hybrid')
  assert described({'stage': {'name': 'bam', 'stages': (2,), 'start': 'identity'}}).startswith(
    'bam at stage, stage 2, start=identity'
  )


@pytest.mark.parametrize('name', sorted(ATTENTION))
def test_every_mechanism_is_described(name):
  """Also those that replace a convolution and are no augmented one."""
  model = create_model('resnet18', num_classes=10, attention=name)
  (found,) = mechanisms.mechanisms(model)
  shares = mechanisms.augmented_shares(model, (32, 32, 3))
  assert found.name == name and bool(shares) == (name == 'aa')
  assert describe(model).startswith(name)


def test_the_ratio_study_has_five_distinct_ratios():
  """The key and value dimensions of the five variants differ in every stage."""
  study = ratio.get_config()
  found = []
  for name in plan.variants(study):
    config = plan.run_config(study, name, 0, None).model
    model = make_model(config, 10)
    found.append(mechanisms.augmented_shares(model, (32, 32, 3)))
  for stage, features in ((2, 32), (3, 64)):
    of_stage = [shares.get(stage, (0, 0, features)) for shares in found]
    assert [values for _, values, _ in of_stage] == [
      round(share * features) for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert len({keys for keys, _, _ in of_stage}) == 5
  configs = [plan.run_config(study, name, 0, None) for name in ('ratio_000', 'ratio_025')]
  models = [make_model(config.model, 10) for config in configs]
  attending = [[m.name for m in mechanisms.mechanisms(one) if m.attends] for one in models]
  assert attending == [[], ['aa']]
  assert '8 key and 8 value dimensions, 32 output channels' in describe(models[1])


@pytest.mark.parametrize('name', ['oxford_iiit_pet', 'oxford_flowers102'])
def test_images_of_the_catalog_come_with_what_they_have(tmp_path, study, name):
  """Some images, decoded as for evaluation, with masks and the best fixed map if available."""
  study.base.data.name = name
  study.base.data.dir = str(tmp_path)
  study.base.model.depths, study.base.model.widths = (1,), (8,)
  study.base.train.batch_size = 4
  study.report.images = 5
  with fake_catalog.catalog(tmp_path, name):
    experiment = train.open_experiment(plan.run_config(study, 'resnet', 0, None))
    test = measure._load_test(experiment, study.report)
    whole = experiment.dataset.splits['test'].take(test.position)
  assert len(set(test.position)) == 5
  np.testing.assert_array_equal(test.images.image, whole.image)
  np.testing.assert_array_equal(test.images.label, whole.label)
  size = experiment.image_shape[:2]
  if name == 'oxford_iiit_pet':
    assert test.images.mask.shape == (5, *size) and test.images.fixed.shape == size
    assert 0 < test.images.mask.mean() < 1
  else:
    assert test.images.mask is test.images.box is test.images.fixed is None
