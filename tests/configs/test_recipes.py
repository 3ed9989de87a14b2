"""Recipes by name set the values of their sources, and train."""

import pathlib

import pytest
import run_files

from attn_flax.commands import command_line
from attn_flax.data import DATASETS
from attn_flax.training.experiment import make_augmentation
from attn_flax.training.optimizer import make_optimizer, make_schedule
from configs import base
from configs.presets import recipes

ROOT = pathlib.Path(__file__).parents[2]
# Epochs, batch size, peak learning rate, and the rate in the middle of the run over the peak.
PRINTED = {
  'cifar': (200, 128, 0.1, 0.2),
  'imagenet': (100, 256, 0.1, 0.1),
  'imagenet90': (90, 256, 0.1, 0.1),
  'aa': (500, 256, 0.2, None),
}


class _Dataset:
  """A stand-in for a dataset: its spec, and ten classes."""

  def __init__(self, name):
    self.spec, self.class_names = DATASETS[name], tuple(map(str, range(10)))


@pytest.mark.parametrize('recipe', recipes.RECIPES)
def test_a_recipe_makes_an_optimizer_and_an_augmentation(recipe):
  config = base.get_config(recipe)
  schedule = make_schedule(
    config.optimizer, batch_size=config.train.batch_size or 16, updates=4000, updates_per_epoch=10
  )
  assert make_optimizer(config.optimizer, schedule)
  augmentation = make_augmentation(config.augment, _Dataset('cifar10'))
  assert augmentation.mixes == (recipe == 'modern')
  assert (augmentation.crop_padding, augmentation.flip) == (4, True)


@pytest.mark.parametrize('recipe', PRINTED)
def test_a_recipe_of_a_paper_has_its_numbers(recipe):
  epochs, batch, peak, half = PRINTED[recipe]
  config = base.get_config(recipe)
  assert (config.train.epochs, config.train.batch_size) == (epochs, batch)
  schedule = make_schedule(
    config.optimizer, batch_size=batch, updates=epochs * 10, updates_per_epoch=10
  )
  rates = [float(schedule(update)) for update in range(epochs * 10)]
  assert max(rates) == pytest.approx(peak)
  if half:
    assert rates[epochs * 5] == pytest.approx(peak * half)
    assert config.optimizer.decay_all


def test_the_modern_recipe_holds_what_is_usual_today():
  config = base.get_config('modern')
  assert (config.optimizer.schedule, config.optimizer.decay_all) == ('cosine', False)
  assert config.train.ema_decay > 0.999 and config.train.label_smoothing == 0.1
  assert config.augment.mixup_alpha > 0 and config.augment.cutmix_alpha > 0
  assert config.augment.randaugment == (2, 7.0)


def test_every_recipe_says_where_it_comes_from():
  lines = pathlib.Path(recipes.__file__).read_text().splitlines()
  for recipe in recipes.RECIPES:
    (at,) = (i for i, line in enumerate(lines) if line.startswith(f"  '{recipe}': {{"))
    assert lines[at - 1].startswith('  # '), recipe


@pytest.mark.parametrize('name', recipes.DATASETS)
def test_a_dataset_brings_network_stem_and_recipe(name):
  config = base.get_config(name)
  assert config.data.name == name
  # With the network's own stem, the last feature map of 32x32 images would be too small.
  expected = 'cifar' if name.startswith('cifar') else None
  assert config.model.stem in (expected, 'imagenet')
  assert (config.model.stem == 'cifar') == (expected == 'cifar')
  assert base.get_config(f'{name},modern').augment.cutmix_alpha == 1.0


@pytest.mark.parametrize('words', ['modern,aa', 'cifar10,cifar100', 'resnet18,resnet34'])
def test_two_words_of_a_kind_are_refused(words):
  with pytest.raises(ValueError, match='keep one'):
    base.get_config(words)


@pytest.mark.usefixtures('small_dataset', 'quick_compilation')
@pytest.mark.slow
def test_the_modern_recipe_trains(tmp_path):
  command = [f'--config={ROOT}/configs/se.py:modern,smoke', '--config.train.steps=2']
  flags = ['--config.train.batch_size=16', f'--workdir={tmp_path}']
  assert command_line.run(['main.py', *command, *flags]) == 0
  result = run_files.read(tmp_path)
  assert result['test_ema_top1'] >= 0
  assert len(result['test_per_class']) == 10


def test_the_recipe_for_photographs_follows_their_number():
  config = base.get_config('folder,resnet18')
  assert config.train.batch_size is config.train.epochs is config.model.stem is None
  assert config.optimizer.name == 'adamw' and config.train.ema_decay == 0.999
  assert config.augment.mixup_alpha == config.augment.cutmix_alpha == 0
  assert config.augment.randaugment is None
  config.train.batch_size = 8  # A field set to None keeps its type.
  with pytest.raises(TypeError):
    config.train.epochs = 'many'
