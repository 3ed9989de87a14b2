"""Weights as training scripts save them: below wrappers, with other values beside them."""

import argparse
import pathlib
import pickle
import sys
import types

import jax
import numpy as np
import pytest
import tiny_torch

from attn_flax import UserError, from_torch
from attn_flax.interop.torch_files import read_state_dict

PLAIN = {name: value for name, value in tiny_torch.weights().items() if '.se.' not in name}


def _below(prefix, state=PLAIN, add=0):
  return {prefix + name: value + np.float32(add) for name, value in state.items()}


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
  assert _head(from_torch(tmp_path / name)[1]) == 1


@pytest.mark.parametrize('module', ['pathlib', 'pathlib._local'])
@pytest.mark.parametrize(
  'name', ['Path', 'PosixPath', 'WindowsPath', 'PurePath', 'PurePosixPath', 'PureWindowsPath']
)
def test_paths_of_every_system_and_python_are_read(torch, tmp_path, module, name):
  stand_in = type(name, (), {'__reduce__': lambda self: (type(self), ('runs', 'a'))})
  stand_in.__module__ = module
  # As another system and version of Python would write it.
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, module, types.ModuleType(module))
    patch.setattr(sys.modules[module], name, stand_in, raising=False)
    content = {'model': {key: torch.from_numpy(value) for key, value in PLAIN.items()}}
    torch.save({**content, 'out': stand_in()}, tmp_path / 'a.pth', pickle_module=pickle)
  assert _head(from_torch(tmp_path / 'a.pth')[1]) == 1


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
