"""Weights as training scripts save them: below wrappers, with averages, other heads or none."""

import argparse
import pathlib

import jax
import numpy as np
import pytest
import tiny_torch

from attn_flax import UserError, from_torch
from attn_flax.interop.torch_files import read_state_dict

PLAIN = {name: value for name, value in tiny_torch.weights().items() if '.se.' not in name}


def _below(prefix, state=PLAIN, add=0):
  return {prefix + name: value + np.float32(add) for name, value in state.items()}


def _renamed(before, after):
  return {name.replace(before, after): value for name, value in PLAIN.items()}


def _head(variables):
  return float(variables['params']['head']['kernel'][0, 0])


@pytest.mark.parametrize(
  'prefix',
  [
    'module.',
    '_orig_mod.',
    'model.',
    'backbone.',
    'module._orig_mod.',
    'model.backbone.',
    'module.module.',
    'module.encoder_q.',
    'net.encoder.',
  ],
)
def test_prefixes_of_any_wrappers_are_removed(prefix):
  assert _head(from_torch(_below(prefix))[1]) == 1


@pytest.mark.parametrize('average', ['ema_model.', 'model_ema.module.', 'ema.', 'teacher.'])
def test_an_average_beside_the_weights_is_taken(average):
  state = {**_below('model.'), **_below(average, add=1), 'n_averaged': np.int64(3)}
  assert _head(from_torch(state)[1]) == 2


@pytest.mark.parametrize(
  ('raw', 'average'),
  [('state_dict', 'state_dict_ema'), ('model', 'model_ema'), ('state_dict', 'ema_state_dict')],
)
def test_an_entry_of_averages_is_taken(raw, average):
  assert _head(from_torch({raw: PLAIN, average: _below('module.', add=1)})[1]) == 2


def test_the_query_encoder_of_a_contrastive_network_is_taken():
  state = {**_below('module.encoder_q.'), **_below('module.encoder_k.', add=1)}
  state |= {'module.queue': np.ones((3, 4)), 'module.queue_ptr': np.ones(1)}
  assert _head(from_torch(state)[1]) == 1


def test_two_networks_are_refused_where_neither_is_the_average():
  with pytest.raises(UserError, match="below 'first.' and 'second.'"):
    from_torch({**_below('first.'), **_below('second.')})


@pytest.mark.parametrize(
  'name', ['classifier', 'last_linear', 'head', 'head.fc', 'fc.1', 'classifier.0']
)
def test_the_head_has_any_of_its_names(name):
  assert _head(from_torch(_renamed('fc.', f'{name}.'))[1]) == 1


def test_a_head_beside_the_network_of_a_wrapper_is_found():
  state = _below('backbone.', {k: v for k, v in PLAIN.items() if not k.startswith('fc.')})
  state |= {f'classifier.{name}': PLAIN[f'fc.{name}'] for name in ('weight', 'bias')}
  assert _head(from_torch(state)[1]) == 1


HEADLESS = {name: value for name, value in PLAIN.items() if not name.startswith('fc.')}
TWO_LAYERS = {
  **HEADLESS,
  'fc.0.weight': np.ones((16, 16), np.float32),
  'fc.0.bias': np.ones(16, np.float32),
  'fc.2.weight': np.ones((128, 16), np.float32),
  'fc.2.bias': np.ones(128, np.float32),
}


def test_without_a_head_the_network_has_none():
  model, variables = from_torch(HEADLESS)
  assert model.num_classes is None and 'head' not in variables['params']


@pytest.mark.parametrize('state', [HEADLESS, PLAIN, TWO_LAYERS])
def test_another_number_of_classes_starts_a_fresh_head(state):
  model, variables = from_torch(state, num_classes=4)
  assert model.num_classes == 4
  head = variables['params']['head']
  assert head['kernel'].shape == (16, 4) and np.unique(head['kernel']).size > 1
  assert (variables['params']['stem_conv']['kernel'] == 1).all()


def test_a_head_of_two_layers_is_named_with_the_fix():
  with pytest.raises(UserError, match=r'unexpected: fc\.0\.weight.*num_classes='):
    from_torch(TWO_LAYERS)


@pytest.mark.parametrize('channels', [1, 4])
def test_a_stem_may_have_any_number_of_channels(channels):
  state = {**PLAIN, 'conv1.weight': np.ones((8, channels, 3, 3), np.float32)}
  model, variables = from_torch(state)
  logits = jax.eval_shape(
    lambda x: model.apply(variables, x, train=False), np.ones((2, 32, 32, channels), np.float32)
  )
  assert logits.shape == (2, 10)


@pytest.mark.parametrize(
  'name',
  [
    'module.layer2.0.bn1.running_mean',
    'module.layer2.0.downsample.0.weight',
    'module.layer2.0.downsample.1.bias',
    'module.bn1.running_var',
    'module.fc.bias',
  ],
)
def test_what_is_missing_is_named_as_in_the_file(name):
  state = _below('module.')
  del state[name]
  with pytest.raises(UserError) as error:
    from_torch(state)
  assert f'missing: {name} (for ' in str(error.value)
  assert '/scale' not in str(error.value) and 'unexpected' not in str(error.value)


@pytest.mark.parametrize('name', ['A.NPZ', 'b.Npz'])
def test_file_endings_may_have_any_case(tmp_path, name):
  with open(tmp_path / name, 'wb') as file:
    np.savez(file, **PLAIN)
  assert set(read_state_dict(tmp_path / name)) == set(PLAIN)


@pytest.fixture
def torch():
  return pytest.importorskip('torch', reason='writing .pth takes torch')


@pytest.mark.parametrize('name', ['a.ckpt', 'b.PTH', 'c.pth.Tar'])
def test_scores_and_arguments_beside_the_weights_are_read(torch, tmp_path, name):
  tensors = {key: torch.from_numpy(value) for key, value in PLAIN.items()}
  beside = {
    'args': argparse.Namespace(lr=0.1, data=pathlib.PosixPath('data')),
    'best': np.float64(71.2),
    'epoch': np.int64(3),
    'history': np.arange(3.0),
  }
  torch.save({'state_dict': tensors, **beside}, tmp_path / name)
  assert set(read_state_dict(tmp_path / name)) == set(PLAIN)


def test_a_whole_module_is_refused_with_how_to_save_its_weights(torch, tmp_path):
  torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / 'whole.pth')
  with pytest.raises(UserError) as error:
    read_state_dict(tmp_path / 'whole.pth')
  text = str(error.value)
  assert 'Sequential' in text and 'torch.save(model.state_dict()' in text
  assert 'weights_only' not in text and '\x1b' not in text and '\n' not in text


def test_a_damaged_file_is_not_reported_as_holding_code(torch, tmp_path):
  (tmp_path / 'bad.pth').write_bytes(b'not weights')
  with pytest.raises(UserError, match='damaged or holds more'):
    read_state_dict(tmp_path / 'bad.pth')
