"""The images that a study explains, and its scores against the library's functions."""

import pathlib
import types

import jax
import numpy as np
import pytest

from attn_flax import create_model, explain
from attn_flax.explain import controls, localization
from attn_flax.explain.chance import image_numbers
from attn_flax.explain.perturbation import faithfulness
from attn_flax.study import measure
from attn_flax.study.explain import Explained, Explainer, Images, _filled
from attn_flax.study.groups import Member
from attn_flax.tasks.classification import classification

STEPS = 3
KEY = jax.random.key(7)
FEW = np.array([1, 4])


def normalize(images):
  return images.astype(np.float32) / 255


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  mask = np.zeros((6, 8, 8), bool)
  mask[:, 2:5, 3:6] = True
  return Images(
    rng.integers(0, 256, (6, 8, 8, 3), np.uint8),
    rng.integers(0, 4, 6).astype(np.int32),
    mask,
    np.ones_like(mask),
    rng.random((8, 8)).astype(np.float32),
  )


@pytest.fixture(scope='module')
def model():
  small = {'depths': (1,), 'widths': (4,), 'num_classes': 4, 'stem': 'cifar'}
  return create_model('resnet20', attention='cbam', attention_kwargs={'ratio': 2}, **small)


@pytest.fixture(scope='module')
def variables(model, images):
  return model.init(jax.random.key(3), normalize(images.image[:1]), train=False)


@pytest.fixture(scope='module')
def explained(model, variables, images):
  return Explainer(model, normalize, STEPS, 'cpu').explain(variables, images, FEW, KEY)


@pytest.fixture(scope='module')
def maps(model, variables, images):
  """The maps of the trained and of the random network, by kind."""
  x = normalize(images.image)
  fresh = model.init(KEY, x[:1], train=False)
  return {
    source: {
      'Grad-CAM': np.asarray(explain.grad_cam(model, weights, x, images.label)),
      'own map': np.asarray(explain.own_map(model, weights, x)),
    }
    for source, weights in (('map', variables), ('random weights', fresh))
  }


@pytest.mark.parametrize('kind', ['Grad-CAM', 'own map'])
def test_scores_are_those_of_the_maps_and_of_every_control(explained, maps, images, kind):
  shape = maps['map'][kind].shape
  gaussian = np.asarray(controls.centered_gaussian(8, 8))
  sources = {
    'map': maps['map'][kind],
    'random weights': _filled(maps['random weights'][kind]),
    'random map': np.asarray(
      controls.random_maps(KEY, *shape, positions=image_numbers(images.image))
    ),
    'centered Gaussian': np.broadcast_to(gaussian, (6, 8, 8)),
    'best fixed map': np.broadcast_to(images.fixed, (6, 8, 8)),
  }
  found = explained.localization[kind]
  assert found['pointing'].keys() == found['iou'].keys() == sources.keys()
  for source, one in sources.items():
    for score, expected in (
      ('pointing', localization.pointing_game(one, images.mask)),
      ('energy_mask', localization.energy_inside(one, images.mask)),
      ('energy_box', localization.energy_inside(one, images.box)),
    ):
      np.testing.assert_allclose(found[score][source], expected, rtol=1e-5, err_msg=source)
  np.testing.assert_allclose(found['energy_box']['map'], 1)  # The box is the whole image.


def test_all_maps_are_tried_on_the_trained_network(explained, model, variables, maps, images):
  few = images.take(FEW)
  found = explained.perturbation['Grad-CAM']
  for source, one in (
    ('map', maps['map']['Grad-CAM']),
    ('random weights', _filled(maps['random weights']['Grad-CAM'])),
  ):
    expected = faithfulness(
      model, variables, normalize(few.image), few.label, one[FEW], steps=STEPS
    )
    for score in ('insertion', 'deletion'):
      np.testing.assert_allclose(found[score][source], expected[score], rtol=1e-5)


def test_a_control_without_maps_scores_by_chance(images):
  """And not below chance, although an untrained network's maps are empty for whole classes."""
  filled = _filled(np.stack([np.zeros((4, 4)), -np.eye(4), np.eye(4)]))
  np.testing.assert_array_equal(filled[:2], 1)
  np.testing.assert_array_equal(filled[2], np.eye(4))
  mask = images.mask[:2]
  energy = localization.energy_inside(filled[:2], mask)
  np.testing.assert_allclose(energy, mask.mean((1, 2)), rtol=1e-5)


def test_empty_maps_are_counted_for_both_networks(explained, maps):
  for found, source in ((explained.empty, 'map'), (explained.empty_random, 'random weights')):
    np.testing.assert_array_equal(found, maps[source]['Grad-CAM'].max((1, 2)) <= 0)


def test_images_that_all_variants_of_a_seed_classify_correctly_are_explained(monkeypatch):
  labels = np.array([0, 1, 2, 0, 1, 2, 0, 1])
  position = np.array([1, 2, 3, 5, 6, 7])  # Of the test images, those that may be explained.
  wrong = {('plain', 0): [1], ('eca', 0): [2, 0], ('plain', 1): [], ('eca', 1): [7]}
  predictions = {'plain': {}, 'eca': {}}
  for (name, seed), images in wrong.items():
    found = 5.0 * np.eye(3)[labels]
    found[images] = 5.0 * np.eye(3)[(labels[images] + 1) % 3]
    predictions[name][seed] = {'logits': found, 'labels': labels}
  members = {
    name: [Member(seed, pathlib.Path(f'{name}{seed}'), None, {}) for seed in (0, 1)]
    for name in predictions
  }
  calls = []

  class Fake:
    def __init__(self, model, normalize, steps, platform):
      self.model = model
      assert (steps, platform) == (STEPS, 'cpu')

    def explain(self, weights, images, few, key):
      calls.append((self.model, str(weights), images.image[:, 0, 0, 0].tolist(), few, key))
      none = np.zeros(len(images.image), bool)
      return Explained({}, {}, none, none)

  monkeypatch.setattr(measure, 'Explainer', Fake)
  monkeypatch.setattr(measure, 'read_weights', lambda folder: folder)
  image = np.zeros((6, 2, 2, 3), np.uint8)
  image[:] = position[:, None, None, None]
  test = measure._Test(position, Images(image, labels[position], None, None, None))
  options = types.SimpleNamespace(steps=STEPS, perturbed_images=2, seed=0)
  augmentation = types.SimpleNamespace(evaluate=normalize)
  task = classification()
  experiment = types.SimpleNamespace(augmentation=augmentation, task=task, platform='cpu')
  study = measure._Study(experiment, {'plain': 'P', 'eca': 'E'}, members, 'plain', options)
  explained, images = measure._explain(study, task.classes, test, predictions)
  assert {seed: one.localized.tolist() for seed, one in images.items()} == {
    0: [3, 5, 6, 7],
    1: [1, 2, 3, 5, 6],
  }
  of_runs = [('P', 'plain0'), ('E', 'eca0'), ('P', 'plain1'), ('E', 'eca1')]
  assert [call[:2] for call in calls] == of_runs
  for call, seed in zip(calls, (0, 0, 1, 1), strict=True):
    assert call[2] == images[seed].localized.tolist()
    np.testing.assert_array_equal(images[seed].localized[call[3]], images[seed].perturbed)
    assert len(call[3]) == 2
  # All variants of a seed get the same images, random maps and random weights.
  assert np.array_equal(calls[0][3], calls[1][3])
  keys = [jax.random.key_data(call[4]).tolist() for call in calls]
  assert keys[0] == keys[1] != keys[2] == keys[3]
  assert explained.keys() == {'plain', 'eca'} and explained['eca'].keys() == {0, 1}
