"""PyTorch weights give PyTorch's logits, and weights that do not fit are named."""

import jax
import numpy as np
import pytest
import rule

from attn_flax import UserError, from_torch
from attn_flax.interop.torch_files import read_state_dict

# One of each family and option; the others take the same code and run with the slow tests.
QUICK = (
  'cbam_repo-cifar10-resnet18-CBAM-no_spatial',
  'cbam_repo-cifar10-resnet50-BAM',
  'cbam_repo-imagenet-resnet18-CBAM',
  'cbam_repo-module-cifar10-resnet18',
  'eca_repo-resnet18-k3577',
  'timm-ecaresnet26t',
  'timm-legacy_seresnet18',
  'timm-legacy_seresnet50',
  'timm-resnet18d',
  'timm-resnet50c',
  'timm-seresnet18',
  'timm-seresnext26d_32x4d',
  'timm-wide_resnet50_2',
)
# Fields that do not show in the weights.
TOLD = {'cbam_repo-cifar10-resnet18-CBAM-avg_max_lse': {'pools': ('avg', 'max', 'lse')}}
ALL = sorted(path.stem for path in rule.FOLDER.glob('*.npz'))


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ALL]
)
def test_logits_are_those_of_pytorch(name):
  state, images, expected = rule.load(name)
  model, variables = from_torch(state, attention_kwargs=TOLD.get(name))
  assert set(variables) == {'params', 'batch_stats'}
  apply = jax.jit(lambda v, x: model.apply(v, x, train=False))
  logits = np.asarray(apply(variables, images.transpose(0, 2, 3, 1)))
  assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
  # The two images differ, so that a network that ignores its input would not pass.
  assert np.abs(logits[0] - logits[1]).max() > 1e-4 * np.abs(expected).max()


def test_every_quick_network_exists():
  assert set(QUICK) | set(TOLD) <= set(ALL)


@pytest.fixture(scope='module')
def small():
  """The state dict of a small network, its input and its logits."""
  return rule.load('cbam_repo-cifar10-resnet18')


def _logits(source, images):
  model, variables = from_torch(source)
  return model.apply(variables, images.transpose(0, 2, 3, 1), train=False)


def test_an_npz_file_is_read(small, tmp_path):
  state, images, expected = small
  np.savez(tmp_path / 'weights.npz', **state)
  np.testing.assert_allclose(_logits(tmp_path / 'weights.npz', images), expected, atol=1e-4)


def test_a_safetensors_file_is_read(small, tmp_path):
  save_file = pytest.importorskip('safetensors.numpy').save_file
  state, images, expected = small
  save_file(state, tmp_path / 'weights.safetensors')
  np.testing.assert_allclose(_logits(tmp_path / 'weights.safetensors', images), expected, atol=1e-4)


def test_a_pth_tar_file_of_a_training_script_is_read(small, tmp_path):
  torch = pytest.importorskip('torch', reason='reading .pth takes torch')
  state, images, expected = small
  tensors = {f'module.{name}': torch.from_numpy(value) for name, value in state.items()}
  torch.save({'epoch': 3, 'arch': 'resnet18', 'state_dict': tensors}, tmp_path / 'model.pth.tar')
  np.testing.assert_allclose(_logits(tmp_path / 'model.pth.tar', images), expected, atol=1e-4)


def test_without_torch_the_error_names_the_package(small, tmp_path, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'torch', None)
  (tmp_path / 'model.pth').write_bytes(b'weights')
  with pytest.raises(UserError, match="takes the package 'torch'"):
    from_torch(tmp_path / 'model.pth')


@pytest.mark.parametrize('name', ['model.npz', 'model.xyz', 'gone.npz'])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
  if name != 'gone.npz':
    (tmp_path / name).write_bytes(b'not weights')
  with pytest.raises(UserError, match=name):
    from_torch(tmp_path / name)


def test_weights_that_do_not_fit_are_named(small):
  state = dict(small[0])
  del state['layer2.1.conv2.weight']
  state['layer9.foo'] = np.zeros(3, np.float32)
  state['layer3.0.conv2.weight'] = state['layer3.0.conv2.weight'][:, :, :2]
  with pytest.raises(UserError) as error:
    from_torch(state)
  text = str(error.value)
  assert 'missing: layer2.1.conv2.weight (for params/stage2_block2/conv2/kernel)' in text
  assert 'unexpected: layer9.foo' in text
  assert 'of another shape: layer3.0.conv2.weight' in text


@pytest.mark.parametrize(
  'name', ['conv1.foo', 'layer1.0.conv1.weight_mask', 'bn1.extra', 'fc.weight.more']
)
def test_another_name_does_not_take_the_place_of_a_weight(small, name):
  with pytest.raises(UserError, match=f'unexpected: {name}'):
    from_torch({**small[0], name: np.zeros(3, np.float32)})


def test_a_weight_with_and_without_prefix_is_refused(small):
  with pytest.raises(UserError, match='unexpected: module.conv1.weight'):
    from_torch({**small[0], 'module.conv1.weight': small[0]['conv1.weight']})


@pytest.mark.parametrize('name', ['conv1.weight', 'layer3.0.conv2.weight'])
def test_a_missing_weight_that_decides_the_architecture_is_named(small, name):
  state = {key: value for key, value in small[0].items() if key != name}
  with pytest.raises(UserError, match=f'no {name}'):
    from_torch(state)


def test_an_unknown_field_or_source_is_refused(small):
  with pytest.raises(UserError, match="'foo'"):
    from_torch(small[0], foo=3)
  with pytest.raises(UserError, match='list holds no weights'):
    from_torch([1, 2])


def test_counters_of_batches_may_be_absent(small):
  state, images, expected = small
  state = {name: value for name, value in state.items() if not name.endswith('batches_tracked')}
  np.testing.assert_allclose(_logits(state, images), expected, atol=1e-4)


def test_other_networks_are_refused(small):
  with pytest.raises(UserError, match='not those of a residual network'):
    from_torch({'features.0.weight': np.zeros((4, 3, 3, 3), np.float32)})
  without_norms = {k: v for k, v in small[0].items() if 'running' not in k}
  with pytest.raises(UserError, match='batch norms'):
    from_torch(without_norms)
  with pytest.raises(UserError, match='hold no attention'):
    from_torch(small[0], attention_kwargs={'pools': ('avg',)})
  with pytest.raises(UserError, match='no array'):
    read_state_dict({'epoch': 'three'})


def test_attention_in_some_blocks_of_a_stage_is_refused():
  state, _, _ = rule.load('eca_repo-resnet18-k3577')
  state = {name: value for name, value in state.items() if name != 'layer2.0.eca.conv.weight'}
  with pytest.raises(UserError, match='only some blocks of layer2'):
    from_torch(state)
