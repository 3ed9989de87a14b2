"""The head is the one layer that takes the features, whatever its name; losses are left out."""

import numpy as np
import pytest
import tiny_torch

from attn_flax import UserError, from_torch

PLAIN = {name: value for name, value in tiny_torch.weights().items() if '.se.' not in name}
HEADLESS = {name: value for name, value in PLAIN.items() if not name.startswith('fc.')}
# What scripts keep beside the network, without a part in it.
BESIDE = {
  'criterion.weight': np.ones(10, np.float32),
  'loss_fn.weight': np.ones((10, 16), np.float32),
  'train_acc.correct': np.ones(1, np.float32),
  'val_metrics.top1.total': np.ones(1, np.float32),
}


def _dense(name, outputs, inputs):
  arrays = {'weight': np.ones((outputs, inputs), np.float32), 'bias': np.ones(outputs, np.float32)}
  return {f'{name}.{leaf}': value for leaf, value in arrays.items()}


TWO_LAYERS = {**HEADLESS, **_dense('fc.0', 16, 16), **_dense('fc.2', 128, 16)}


@pytest.mark.parametrize(
  'name',
  [
    'classifier',
    'last_linear',
    'head',
    'head.fc',
    'fc.1',
    'classifier.0',
    'linear',
    'output',
    'out',
  ]
  + ['logits', 'fc_out', 'fc1', 'fc.fc', 'fc.linear', 'classifier.fc', 'classifier.1', 'new_fc']
  + ['head.linear', 'head.layers.0', 'heads.0', 'heads.head', 'final', '_fc'],
)
@pytest.mark.parametrize('prefixes', [('', ''), ('backbone.', ''), ('model.net.', 'model.')])
def test_the_head_has_any_name(name, prefixes, capsys):
  root, scope = prefixes
  state = {root + key: value for key, value in HEADLESS.items()} | _dense(scope + name, 10, 16)
  model, variables = from_torch(state)
  assert model.num_classes == 10 and (variables['params']['head']['kernel'] == 1).all()
  assert not capsys.readouterr().err


def test_a_head_may_be_a_convolution():
  state = {**PLAIN, 'fc.weight': np.ones((10, 16, 1, 1), np.float32)}
  assert from_torch(state)[1]['params']['head']['kernel'].shape == (16, 10)


def test_a_head_without_bias_has_a_bias_of_zero():
  state = {name: value for name, value in PLAIN.items() if name != 'fc.bias'}
  head = from_torch(state)[1]['params']['head']
  assert (head['kernel'] == 1).all() and (head['bias'] == 0).all() and head['bias'].shape == (10,)


def test_without_a_head_the_network_has_none():
  model, variables = from_torch(HEADLESS)
  assert model.num_classes is None and 'head' not in variables['params']


WIDE = {**HEADLESS, **_dense('fc', 10, 32)}
BESIDE_EACH_OTHER = {**PLAIN, **_dense('rotation', 4, 16)}
NARROWING = {**HEADLESS, **_dense('fc1', 5, 16), **_dense('fc2', 10, 5)}


@pytest.mark.parametrize('state', [HEADLESS, PLAIN, TWO_LAYERS, WIDE, BESIDE_EACH_OTHER, NARROWING])
@pytest.mark.parametrize('root', ['', 'backbone.'])
def test_another_number_of_classes_starts_a_fresh_head(state, root):
  state = {n if n not in HEADLESS else root + n: value for n, value in state.items()}
  model, variables = from_torch(state, num_classes=3)
  assert model.num_classes == 3
  head = variables['params']['head']
  assert head['kernel'].shape == (16, 3) and np.unique(head['kernel']).size > 1
  assert (variables['params']['stem_conv']['kernel'] == 1).all()
  assert 'head' not in from_torch(state, num_classes=None)[1]['params']


@pytest.mark.parametrize(
  ('state', 'message'),
  [
    (TWO_LAYERS, r'each of fc\.0\.weight and fc\.2\.weight may be the head.*num_classes='),
    (BESIDE_EACH_OTHER, r'each of fc\.weight and rotation\.weight may be the head.*num_classes='),
    (NARROWING, r'unexpected: fc1\.weight.* fc2\.weight.*not one layer.*num_classes='),
    (WIDE, r'unexpected: fc\.weight.*not one layer that takes the features.*num_classes='),
  ],
)
@pytest.mark.parametrize('root', ['', 'backbone.'])
def test_a_head_that_is_not_one_layer_is_named_with_the_fix(state, message, root):
  state = {n if n not in HEADLESS else root + n: value for n, value in state.items()}
  with pytest.raises(UserError, match=message):
    from_torch(state)


@pytest.mark.parametrize('fields', [{}, {'num_classes': 3}])
@pytest.mark.parametrize('root', ['', 'model.'])
def test_losses_and_metrics_beside_the_network_are_left(root, fields, capsys):
  state = {root + name: value for name, value in PLAIN.items()} | BESIDE
  assert from_torch(state, **fields)[0].num_classes == fields.get('num_classes', 10)
  assert not capsys.readouterr().err


def test_an_entry_named_after_a_metric_holds_its_network():
  assert from_torch({'best_acc_model': PLAIN, 'epoch': 3})[0].num_classes == 10


@pytest.mark.parametrize('fields', [{}, {'num_classes': 3}])
@pytest.mark.parametrize('name', ['attention.conv.weight', 'layer2.0.extra', 'bn2.running_mean'])
def test_layers_among_those_of_the_network_are_refused(name, fields):
  state = {f'model.{name}': value for name, value in {**PLAIN, name: np.ones((4, 8, 3, 3))}.items()}
  with pytest.raises(UserError, match=f'unexpected: model.{name}'):
    from_torch(state, **fields)


def test_layers_outside_the_network_and_its_head_are_left_and_said(capsys):
  state = {f'model.{name}': value for name, value in PLAIN.items()}
  assert from_torch({**state, **_dense('projector.0', 8, 16)})[0].num_classes == 10
  assert capsys.readouterr().err == 'not read, for they are outside the network: projector\n'


def test_layers_between_the_network_and_a_head_beside_it_are_refused():
  state = {f'base.{name}': value for name, value in HEADLESS.items()}
  state |= {'neck.weight': np.ones(16, np.float32), **_dense('classifier', 10, 16)}
  with pytest.raises(UserError, match=r'unexpected: neck\.weight'):
    from_torch(state)


def test_the_names_of_kuangliu_are_read():
  renamed = {'downsample': 'shortcut', 'fc.': 'linear.'}
  state = dict(PLAIN)
  for before, after in renamed.items():
    state = {name.replace(before, after): value for name, value in state.items()}
  assert any('shortcut.1.running_var' in name for name in state)
  model, variables = from_torch({'net': {f'module.{n}': v for n, v in state.items()}, 'acc': 95.2})
  assert model.num_classes == 10 and 'shortcut_conv' in variables['params']['stage2_block1']
