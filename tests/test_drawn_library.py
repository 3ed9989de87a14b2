"""Library calls with randomly drawn values: each works, or raises a `UserError` of one line.

The error names the field. Networks, mechanisms and explanations are traced on tiny inputs, and not
computed.
"""

import functools
import inspect
from collections.abc import Hashable

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_torch

from attn_flax import UserError, count_macs, count_params, create_model, from_torch
from attn_flax.attention import ATTENTION, CBAM, SE, StandAlone
from attn_flax.attention.protocols import traits
from attn_flax.batching import in_batches
from attn_flax.costs.table import cost_table, published_table
from attn_flax.costs.timing import interleave
from attn_flax.data import Split, load
from attn_flax.data.augment import color, crop, erase, mix
from attn_flax.data.augment.augmentation import Augmentation
from attn_flax.data.augment.randaugment import randaugment
from attn_flax.data.pipeline.open import open_pipeline
from attn_flax.data.pipeline.order import Order
from attn_flax.data.pipeline.resident import Resident
from attn_flax.data.pipeline.stream import Stream
from attn_flax.data.records import Records
from attn_flax.data.sources.cluttered_digits import generate
from attn_flax.explain import (
  attention,
  cam,
  controls,
  gradients,
  localization,
  perturbation,
  rollout,
  taps,
)
from attn_flax.explain.occlusion import occlusion
from attn_flax.models.placement import field_names

SECONDS = 60  # The limit of one call.
IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
MAP = jax.ShapeDtypeStruct((2, 8, 8, 64), jnp.float32)
KEY = jax.random.key(0)
# A tiny network of each family.
NETWORKS = {
  'resnet20': {'depths': (1, 1, 1), 'widths': (8, 8, 16)},
  'resnet50': {'depths': (1, 1), 'widths': (8, 16), 'stem': 'cifar'},
  'wrn16_4': {'depths': (1, 1), 'widths': (8, 16)},
  'mnasnet_a1': {'depths': (1,) * 7, 'width_multiplier': 0.25, 'stem': 'cifar'},
  'vit_tiny32': {'patch': 8, 'width': 16, 'depth': 1, 'heads': 2, 'mlp_width': 16},
}
# Fields that may be infinite: maps, which then count as empty, and thresholds that nothing reaches.
MAY_BE_WILD = ('maps', 'thresholds')
# Other words by which an error may name a field.
OTHERWISE = {
  'where': ('place', 'act at'),
  'splits': ('split',),
  'name': ('attention', 'dataset', 'field of'),
  'network': ('model',),
  'batch_size': ('a batch of',),
  'source': ('weights', 'is not a file', 'state dict'),
  'models': ('model',),
  'arrays': ('example', 'lengths'),
  'labels': ('num_classes',),
  'size': ('pixels',),
  'path': ('published',),
  'num_examples': ('examples',),
  'input_shape': ('images of',),
  'image_size': ('images of',),
}


def traced(module, *inputs, **kwargs):
  """The shapes of a module's variables on abstract inputs."""
  return jax.eval_shape(lambda key, *x: module.init(key, *x, **kwargs), KEY, *inputs)


def network(name):
  def call(**fields):
    model = create_model(name, **{'num_classes': 5} | NETWORKS[name] | fields)
    return traced(model, IMAGES, train=False)

  return call


def placed(name):
  """A tiny network with a mechanism, by name or by place."""
  make = {'depths': (2, 2, 2), 'widths': (32, 32, 32), 'stem': 'cifar', 'num_classes': 5}

  def call(where=None, **fields):
    fields = {'upsilon': 0.5} | fields if name == 'aa' else fields
    where = where if isinstance(where, Hashable) else repr(where)
    if where is None and 'name' not in fields:
      model = create_model('resnet20', attention=name, attention_kwargs=fields, **make)
    else:
      where = traits(ATTENTION[name]).where if where is None else where
      model = create_model('resnet20', attention={where: {'name': name} | fields}, **make)
    return traced(model, IMAGES, train=False)

  return call


def mechanism(name):
  module = ATTENTION[name]
  usual = {'features': 64, 'upsilon': 0.5} if name == 'aa' else {'features': 64}

  def call(**fields):
    if traits(module).where == 'conv':
      return traced(module(**usual | fields), MAP)
    return traced(module(**fields), MAP, train=True)

  return call


def augmented(**fields):
  usual = {'mean': (0.5,) * 3, 'std': (0.25,) * 3, 'num_classes': 5}
  augmentation = Augmentation(**usual | fields)
  images, labels = np.zeros((2, 16, 16, 3), np.uint8), np.zeros(2, np.int32)
  jax.eval_shape(augmentation.evaluate, images)
  return jax.eval_shape(augmentation.train_batch, KEY, images, labels)


def of_images(function, **usual):
  """A call of a function of a key and images, with its other arguments as fields."""

  def call(**fields):
    first = () if function is crop.center_crop else (KEY,)
    images = np.full((2, 16, 16, 3), 0.5, np.float32)
    given = (
      {'num_classes': 5, 'labels': np.arange(2)} if function.__module__ == mix.__name__ else {}
    )
    return jax.eval_shape(lambda x: function(*first, x, **given | usual | fields), images)

  return call


def explained(function, **usual):
  """A call of an explanation, traced with defaults for the arguments that are not given."""

  def call(**fields):
    given = {**_explainable(function is rollout.attention_rollout), **usual}
    given = {name: given[name] for name in parameters(function) if name in given} | fields
    shapes = {
      name: value
      for name, value in given.items()
      if name not in fields and name in ('variables', 'images', 'maps', 'masks')
    }
    fixed = {name: value for name, value in given.items() if name not in shapes}
    return jax.eval_shape(lambda shapes: function(**fixed, **shapes), shapes)

  return call


@functools.cache
def _explainable(of_tokens):
  attention = {} if of_tokens else {'attention': 'dual'}
  name = 'vit_tiny32' if of_tokens else 'resnet20'
  model = create_model(name, num_classes=5, **NETWORKS[name], **attention)
  return {
    'model': model,
    'variables': traced(model, IMAGES, train=False),
    'images': IMAGES,
    'labels': np.array([0, 4]),
    'maps': jax.ShapeDtypeStruct((2, 4, 4), jnp.float32),
    'masks': jax.ShapeDtypeStruct((2, 8, 8), bool),
    'key': KEY,
    'query': (0.5, 0.5),
    'thresholds': np.array([0.1, 0.5]),
    'n': 2,
    'height': 4,
    'width': 4,
  }


def digits():
  return Split(np.zeros((20, 8, 8, 3), np.uint8), np.arange(20, dtype=np.int32) % 5)


class Encoded:
  """A source of records that are never read."""

  keys = frozenset(('image', 'label'))

  def __len__(self):
    return 20

  def labels(self):
    return np.arange(20, dtype=np.int32) % 5


def pipeline(make):
  usual = {'batch_size': 4, 'seed': 0, 'augmentation': Augmentation((0.5,) * 3, (0.25,) * 3)}
  split = {'records': Records(Encoded(), 8, 8)} if make is Stream else {'split': digits()}

  def call(**fields):
    return make(**split | usual | fields).abstract_batch()

  return call


def order(seed=0, num_examples=20, balanced_labels=None, step=0, batch_size=4):
  found = Order(seed, num_examples, balanced_labels)
  # An epoch of more examples would take too much memory.
  return found.batch(step, batch_size) if num_examples <= 10**6 else found


def parameters(function, without=()):
  """A function's parameters, each with its default; None without one."""
  kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
  found = inspect.signature(function).parameters.values()
  return {
    parameter.name: None if parameter.default is parameter.empty else parameter.default
    for parameter in found
    if parameter.kind not in kinds and parameter.name not in without
  }


def batched(arrays=None, **fields):
  return in_batches(lambda x: x, np.zeros((4, 2)) if arrays is None else arrays, **fields)


def calls(group):
  """The calls of a group by label, each with the fields to draw and their defaults."""
  if group == 'networks':
    found = {}
    for name in NETWORKS:
      model = create_model(name)
      fields = {field: getattr(model, field) for field in field_names(type(model))}
      found[name] = network(name), fields | {'attention': 'se', 'attention_kwargs': None}
    return found | {'name': (lambda network: create_model(network), {'network': 'resnet20'})}
  if group == 'placements':
    usual = {'name': 'se', 'stages': (1,), 'every': 1, 'start': 'paper', 'where': 'stage'}
    return {name: (placed(name), usual | own(name)) for name in ATTENTION}
  if group == 'mechanisms':
    return {name: (mechanism(name), own(name, ('parent', 'name'))) for name in ATTENTION}
  if group == 'augmentation':
    return {'Augmentation': (augmented, parameters(Augmentation))} | {
      function.__name__: (
        of_images(function, **usual),
        parameters(function, ('key', 'images', 'labels')) | usual,
      )
      for function, usual in (
        (mix.mix, {'mixup_alpha': 0.2}),
        (randaugment, {}),
        (erase.random_erasing, {'probability': 0.5}),
        (erase.cutout, {'side': 4}),
        (crop.random_crop, {'padding': 2}),
        (crop.center_crop, {'size': (8, 8)}),
        (crop.random_resized_crop, {}),
        (color.color_jitter, {}),
        (color.random_gray, {'probability': 0.5}),
      )
    }
  if group == 'data':
    return {
      **{
        f'{make.__name__}': (pipeline(make), parameters(make)) for make in (Resident, open_pipeline)
      },
      'Order': (order, parameters(order)),
      'load': (lambda **fields: load(**{'name': 'cluttered_digits'} | fields), parameters(load)),
      'generate': (
        lambda **fields: next(generate.chunks(**{'split': 'test', 'num_examples': 10} | fields)),
        parameters(generate.chunks),
      ),
      'in_batches': (batched, {'arrays': None, 'batch_size': 64, 'pad': False}),
    }
  if group == 'explanations':
    functions = [
      *(cam.grad_cam, cam.grad_cam_plus_plus, cam.hires_cam, cam.layer_cam),
      *(gradients.integrated_gradients, gradients.smooth_grad, occlusion),
      *(attention.attention_maps, attention.attention_from, attention.attention_received),
      *(attention.own_map, rollout.attention_rollout),
      *(taps.activations, taps.activations_and_gradients),
      *(perturbation.insertion_deletion, perturbation.road, perturbation.faithfulness),
      *(localization.pointing_game, localization.energy_inside, localization.threshold_iou),
      *(controls.random_maps, controls.centered_gaussian, controls.best_fixed_map),
    ]
    return {
      function.__name__: (explained(function), parameters(function)) for function in functions
    }
  assert group == 'costs and weights'
  weights = tiny_torch.weights()
  model = create_model('resnet20', num_classes=5, **NETWORKS['resnet20'])
  return {
    'count_macs': (
      lambda **fields: count_macs(**{'model': model, 'input_shape': (32, 32, 3)} | fields),
      {'model': None, 'input_shape': (32, 32, 3)},
    ),
    'count_params': (count_params, {'variables': None}),
    'cost_table': (
      lambda **fields: cost_table(
        **{'models': ['resnet20'], 'attentions': ['se'], 'image_size': 32} | fields
      ),
      {'models': (), 'attentions': (), 'image_size': 32, 'num_classes': 5, 'stem': 'cifar'},
    ),
    'published_table': (published_table, {'path': ''}),
    'interleave': (
      lambda **fields: interleave(**{'calls': {'a': int}, 'rounds': 1} | fields),
      {'calls': None, 'rounds': 1, 'warmup': 2},
    ),
    'from_torch': (
      lambda **fields: from_torch(**{'source': weights} | fields),
      {'source': '', 'attention_kwargs': None}
      | {field: getattr(model, field) for field in field_names(type(model))},
    ),
    'kwargs of from_torch': (
      lambda **fields: from_torch(weights, attention_kwargs=fields),
      {'stages': (1,), 'every': 1, 'start': 'paper'} | own('se'),
    ),
  }


def own(name, without=('features', 'stride', 'kernel', 'dtype', 'parent', 'name')):
  """The fields of a mechanism with their defaults, by default without those that a network sets."""
  return parameters(ATTENTION[name], without)


GROUPS = {
  'networks': 4,
  'placements': 3,
  'mechanisms': 4,
  'augmentation': 4,
  'data': 3,
  'explanations': 3,
  'costs and weights': 3,
}


def drawn_calls(group):
  """(label, call, fields with drawn values) of a group."""
  found = []
  for label, (call, fields) in calls(group).items():
    for field, default in fields.items():
      values = drawn.values_like(default)
      for value in drawn.examples(f'{group} {label} {field}', values, GROUPS[group]):
        value = drawn.harmless(value) if isinstance(value, str) else value
        found.append((label, call, {field: value}))
  return found


def fault(call, fields):
  """What is wrong with the answer to a call ('' if nothing), and the kind of the answer."""
  try:
    with drawn.deadline(SECONDS):
      call(**fields)
  except UserError as error:
    text = str(error)
    words = [word for field in fields for word in (field, *OTHERWISE.get(field, ()))]
    if '\n' in text or not any(word in text for word in words):
      return f'none of {words} in one line: {text!r}', 'refused'
    return '', 'refused'
  except BaseException as error:
    return f'{type(error).__name__}: {error}', 'traceback'
  wild = [field for field, value in fields.items() if not drawn.is_finite(value)]
  return ('' if set(wild) <= set(MAY_BE_WILD) else f'{wild} accepted'), 'accepted'


@pytest.mark.parametrize('group', GROUPS)
def test_drawn_calls(group, small_dataset, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  answers = [
    (f'{label} {drawn_shown(fields)}', *fault(call, fields))
    for label, call, fields in drawn_calls(group)
  ]
  counts = drawn.answered(answers, 'calls', capsys)
  assert counts['refused'] and counts['accepted']


def drawn_shown(fields):
  return ', '.join(f'{name}={repr(value)[:80]}' for name, value in fields.items())


@pytest.mark.parametrize('group', GROUPS)
def test_the_calls_are_answered_as_they_are(group, small_dataset, tmp_path, monkeypatch):
  """Otherwise calls with drawn values could be refused for another reason."""
  monkeypatch.chdir(tmp_path)
  worked = 0
  for label, (call, fields) in calls(group).items():
    if len(fields) > 1:  # A function of one argument cannot be called without it.
      assert call() is not None, label
      worked += 1
  assert worked


def test_enough_is_drawn():
  fields = {group: sum(len(fields) for _, fields in calls(group).values()) for group in GROUPS}
  assert sum(fields[group] * count for group, count in GROUPS.items()) >= 300


TRACEBACKS = {
  'no name': (lambda: create_model(None), 'model'),
  'classes': (lambda: network('resnet20')(num_classes='x'), 'num_classes'),
  'depths': (lambda: network('resnet20')(depths=3), 'depths'),
  'frozen': (lambda: network('resnet20')(frozen=3), 'frozen'),
  'entry': (lambda: network('resnet20')(attention={'branch': 'se'}), 'branch'),
  'no entry': (lambda: network('resnet20')(attention={'branch': None}), 'branch'),
  'stages': (lambda: placed('se')(stages=1.0), 'stages'),
  'every': (lambda: placed('se')(every='1'), 'every'),
  'ratio': (lambda: SE(ratio=None), 'ratio'),
  'pools': (lambda: CBAM(pools=None), 'pools'),
  'class': (lambda: network('resnet20')(attention=int), 'attention'),
  'window': (lambda: StandAlone(64, kernel_size=101), 'kernel_size'),
  'layer': (lambda: network('resnet20')(attention=nn.Dense), 'features'),
  'channels': (
    lambda: traced(
      create_model('resnet20'), jax.ShapeDtypeStruct((1, 8, 8, 0), 'float32'), train=False
    ),
    'images',
  ),
  'kwargs of weights': (
    lambda: from_torch(tiny_torch.weights(), attention_kwargs=5),
    'attention_kwargs',
  ),
  'no networks': (lambda: cost_table([], ['se'], image_size=32), 'models'),
  'truncated dtype': (lambda: SE(dtype='float64'), 'dtype'),
  'no model': (lambda: cam.grad_cam(None, {}, np.zeros((1, 8, 8, 3)), [0]), 'model'),
  'texts for labels': (
    lambda: explained(cam.grad_cam)(labels=('a', 'b')),
    'labels',
  ),
  'query': (lambda: explained(attention.attention_from)(query=[1]), 'query'),
  'huge batch': (lambda: pipeline(Stream)(batch_size=2**31), 'batch_size'),
  'alpha of texts': (lambda: of_images(mix.mix)(mixup_alpha='a'), 'mixup_alpha'),
  'seed of digits': (lambda: generate.chunks('test', 10, seed='a'), 'seed'),
  'size of a dataset': (lambda: load('cluttered_digits', size='a'), 'size'),
  'batch of texts': (lambda: batched(batch_size='a'), 'batch_size'),
  'no gates': (lambda: mechanism('hybrid')(channel='none', spatial='none'), 'channel'),
}


@pytest.mark.parametrize('case', TRACEBACKS)
def test_what_was_a_traceback_is_an_error_of_the_user(case):
  call, field = TRACEBACKS[case]
  with pytest.raises(UserError) as caught:
    call()
  assert field in str(caught.value) and '\n' not in str(caught.value)
