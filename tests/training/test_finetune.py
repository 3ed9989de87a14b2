"""Fine-tuning: what is loaded, new and left; frozen stages; attention that starts as identity."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rule
import run_files
import tiny_torch

from attn_flax import UserError, create_model
from attn_flax.attention import ATTENTION
from attn_flax.commands import command_line
from attn_flax.models.placement import field_names
from attn_flax.tasks.names import find_task
from attn_flax.training.finetune import read_source, start_from
from attn_flax.training.optimizer import freeze
from attn_flax.training.steps import init_state, make_train_step

ROOT = pathlib.Path(__file__).parents[2]
TINY = {'depths': (1, 1), 'widths': (4, 8), 'stem': 'cifar', 'stem_width': 4}

pytestmark = pytest.mark.usefixtures('small_dataset', 'quick_compilation')


def _state(seed=0, ema=False, **fields):
  model = create_model('resnet18', **{**TINY, 'num_classes': 3, **fields})
  return model, init_state(model, optax.sgd(0.1), jax.random.key(seed), (8, 8, 3), ema=ema)


def _flat(state):
  tree = {'params': state.params, 'batch_stats': state.batch_stats}
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {'/'.join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


def _logits(model, state, images):
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  return model.apply(variables, images, train=False)


def test_everything_of_the_same_network_is_loaded():
  _, source = _state(seed=1)
  _, target = _state(seed=2, ema=True)
  started, found = start_from(target, _flat(source))
  chex.assert_trees_all_equal(started.params, source.params)
  chex.assert_trees_all_equal(started.ema['params'], source.params)
  assert not found.new and not found.left and len(found.loaded) == len(_flat(source))


def test_a_head_for_other_classes_is_new():
  _, source = _state(seed=1)
  _, target = _state(seed=2, num_classes=5)
  started, found = start_from(target, _flat(source))
  assert found.new == found.left == ['params/head/bias', 'params/head/kernel']
  chex.assert_trees_all_equal(started.params['head'], target.params['head'])
  chex.assert_trees_all_equal(started.params['stem_conv'], source.params['stem_conv'])


def test_the_listing_names_the_modules_that_are_new_or_left():
  _, source = _state(seed=1, attention='cbam', attention_kwargs={'ratio': 2})
  _, target = _state(seed=2, num_classes=5)
  _, found = start_from(target, _flat(source))
  line = found.describe()
  assert line.startswith(
    f'{len(found.loaded)} arrays loaded; new: head; left: head, stage1_block1/'
  )
  assert 'branch_attention/channel/reduce' in line and '\n' not in line
  assert set(found.loaded) | set(found.new) == _flat(target).keys()
  assert set(found.loaded) | set(found.left) == _flat(source).keys()


REFINERS = sorted(name for name, module in ATTENTION.items() if module.where != 'conv')


@pytest.mark.parametrize('name', REFINERS)
def test_every_refiner_from_the_identity_leaves_trained_weights_their_logits(name):
  """The logits are equal bit for bit."""
  fields = field_names(ATTENTION[name])
  kwargs = {'stages': (1, 2), 'every': 1, 'start': 'identity'}
  kwargs |= {'ratio': 2} if 'ratio' in fields else {}
  kwargs |= {'subsample': 'none'} if 'subsample' in fields else {}
  plain, source = _state(seed=1)
  model, target = _state(seed=2, attention=name, attention_kwargs=kwargs)
  started, found = start_from(target, _flat(source))
  images = jax.random.normal(jax.random.key(3), (2, 8, 8, 3))
  np.testing.assert_array_equal(_logits(model, started, images), _logits(plain, source, images))
  assert any('attention' in path for path in found.new) and not found.left


@pytest.mark.parametrize('name', REFINERS)
def test_every_refiner_learns_from_the_identity(name):
  """Its own weights change, too; two zero factors in a row would both keep a zero gradient."""
  fields = field_names(ATTENTION[name])
  kwargs = {'stages': (1, 2), 'every': 1, 'start': 'identity'}
  kwargs |= {'ratio': 2} if 'ratio' in fields else {}
  kwargs |= {'subsample': 'none'} if 'subsample' in fields else {}
  model, state = _state(seed=2, attention=name, attention_kwargs=kwargs)
  optimizer = optax.sgd(0.1)
  batch = {
    'image': jax.random.normal(jax.random.key(1), (4, 8, 8, 3)),
    'label': jnp.array([0, 1, 2, 0]),
  }
  step = jax.jit(make_train_step(model, optimizer, lambda _: 0.1, find_task('classification')))
  first = _flat(state)
  for i in range(3):
    state, _ = step(state, batch, jax.random.key(i))
  after = _flat(state)
  kernels = [p for p in first if 'attention' in p and p.endswith('kernel')]
  assert any(not np.array_equal(first[p], after[p]) for p in kernels)


def test_weights_that_fit_nothing_are_refused():
  _, target = _state()
  with pytest.raises(UserError, match='no weight fits'):
    start_from(target, {'params/other': np.zeros(3, np.float32)})


def test_frozen_stages_do_not_count_in_the_norm_that_is_clipped():
  params = {'stem_conv': jnp.zeros(2), 'stage1_block1': jnp.zeros(2), 'head': jnp.zeros(2)}
  grads = {'stem_conv': jnp.full(2, 1e3), 'stage1_block1': jnp.full(2, 1e3), 'head': jnp.ones(2)}
  optimizer = freeze(optax.chain(optax.clip_by_global_norm(10.0), optax.sgd(0.1)), (0, 1), 4)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose(updates['head'], [-0.1, -0.1])
  assert not updates['stem_conv'].any() and not updates['stage1_block1'].any()


@pytest.mark.parametrize(
  ('block', 'stages', 'prefixes'),
  [
    ('basic', (0, 1), ('stem_', 'stage1_')),
    ('preact', (0, 1), ('stem_', 'stage1_')),
    ('preact', (2,), ('stage2_', 'last_norm')),
  ],
)
def test_frozen_stages_keep_weights_and_statistics(block, stages, prefixes):
  model, _ = _state(block=block, frozen=stages)
  optimizer = freeze(optax.sgd(0.1), model.frozen, model.num_stages)
  state = init_state(model, optimizer, jax.random.key(0), (8, 8, 3), ema=False)
  batch = {
    'image': jax.random.normal(jax.random.key(1), (4, 8, 8, 3)),
    'label': jnp.array([0, 1, 2, 0]),
  }
  step = jax.jit(make_train_step(model, optimizer, lambda _: 0.1, find_task('classification')))
  after = _flat(step(state, batch, jax.random.key(2))[0])
  for path, before in _flat(state).items():
    frozen = path.split('/')[1].startswith(prefixes)
    assert np.array_equal(after[path], before) == frozen, path


def test_a_run_starts_from_a_run_and_from_a_pytorch_file(tmp_path, capsys):
  command = ['main.py', f'--config={ROOT}/configs/resnet.py:smoke', '--config.train.steps=1']
  assert command_line.run([*command, f'--workdir={tmp_path}/first']) == 0
  start = f'--config.init_from={tmp_path}/first'
  assert command_line.run([*command, start, f'--workdir={tmp_path}/second']) == 0
  assert 'arrays loaded' in capsys.readouterr().out
  listed = run_files.read(tmp_path / 'second', 'init_from.json')
  assert listed['loaded'] and not listed['new'] and not listed['left']

  # A mistake leaves no folder behind, so that a corrected command finds none.
  wrong = f'--config.init_from={tmp_path}/nowhere'
  assert command_line.run([*command, wrong, f'--workdir={tmp_path}/third']) == 2
  assert 'does not exist' in capsys.readouterr().err and not (tmp_path / 'third').exists()

  np.savez(tmp_path / 'weights.npz', **rule.load('cbam_repo-cifar10-resnet18')[0])
  loaded = read_source(str(tmp_path / 'weights.npz'))
  assert loaded['params/stage1_block1/conv1/kernel'].shape == (3, 3, 64, 64)


@pytest.mark.parametrize(
  ('source', 'match'),
  [
    ('nowhere', '--config.init_from=nowhere does not exist; name a run folder, or a PyTorch'),
    ('.', 'holds no checkpoints; name the folder of a run'),
    ('words.txt', 'words.txt is of an unknown kind; allowed: .pth, .pth.tar'),
  ],
)
def test_a_source_that_is_none_is_named(tmp_path, monkeypatch, source, match):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'words.txt').write_text('words')
  with pytest.raises(UserError, match=match):
    read_source(source)


@pytest.mark.parametrize('name', ['aa', 'sasa'])
def test_what_replaces_a_convolution_cannot_start_as_the_identity(name):
  with pytest.raises(UserError, match='replaces a convolution, so the network cannot start'):
    create_model('resnet18', attention=name, attention_kwargs={'start': 'identity'})


def test_pytorch_weights_without_a_head_leave_the_head_fresh(tmp_path):
  state = {k: v for k, v in tiny_torch.weights().items() if not k.startswith('fc.')}
  np.savez(tmp_path / 'weights.npz', **state)
  model = create_model('resnet18', depths=(1, 1), widths=(8, 16), stem='cifar', stem_width=8)
  fresh = init_state(model, optax.sgd(0.1), jax.random.key(0), (8, 8, 3), ema=False)
  _, found = start_from(fresh, read_source(f'{tmp_path}/weights.npz'))
  assert found.new == ['params/head/bias', 'params/head/kernel']
