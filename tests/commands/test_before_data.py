"""Mistakes in a config are told before a dataset is downloaded, prepared or read."""

import answers
import pytest

from attn_flax import data

BRANCH = '--config.model.attention.branch'
WORDS = {
  '--config.model.name=resnet19': 'unknown model',
  f'{BRANCH}.name=CBAM': 'unknown attention',
  f'{BRANCH}.kernel_size=4': 'kernel_size',
  f'{BRANCH}.stages=(9,)': 'stages',
  '--config.model.num_classes=0': 'num_classes',
  '--config.optimizer.name=adam': 'unknown optimizer',
  '--config.optimizer.schedule=linear': 'unknown schedule',
  '--config.optimizer.momentum=1': 'optimizer.momentum',
  '--config.train.clip_norm=-1': 'train.clip_norm',
  '--config.train.epochs=0': 'train.epochs',
  '--config.train.label_smoothing=1': 'train.label_smoothing',
  '--config.train.batch_norm=none': 'batch_norm',
  '--config.augment.padding_mode=wrap': 'padding_mode',
  '--config.augment.mixup_alpha=-1': 'mixup_alpha',
  '--config.augment.randaugment=(2,31)': 'randaugment',
  '--config.augment.crop_padding=-1': 'crop_padding',
  '--config.data.workers=-1': 'workers=-1',
  '--config.task=detect': 'unknown task',
}
OF_STUDY = {
  '--config.variants.cbam.branch.name=CBAM': 'unknown attention',
  '--config.base.optimizer.name=adam': 'unknown optimizer',
}


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
  def load(*args, **kwargs):
    raise AssertionError('the dataset was opened')

  monkeypatch.setattr(data, 'load', load)
  with answers.nothing_written(tmp_path):
    yield


@pytest.mark.parametrize(('word', 'part'), WORDS.items(), ids=WORDS)
def test_of_a_run(word, part, capsys):
  assert part in answers.error_of(capsys, '--config=eca', word)


@pytest.mark.parametrize(('word', 'part'), OF_STUDY.items(), ids=OF_STUDY)
def test_of_a_study(word, part, capsys):
  words = '--config=compare', '--mode=compare', '--config.select=resnet,cbam'
  assert part in answers.error_of(capsys, *words, word)


def test_steps_within_the_warm_up(capsys):
  words = '--config.optimizer.schedule=step', '--config.optimizer.step_epochs=(1,)'
  line = answers.error_of(capsys, '--config=eca', *words, '--config.optimizer.warmup_epochs=2')
  assert 'begin within warmup_epochs' in line
