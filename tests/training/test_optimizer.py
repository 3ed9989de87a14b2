"""Schedules and optimizers against NumPy, update by update."""

import jax
import numpy as np
import optax
import pytest

from attn_flax.attention import ATTENTION
from attn_flax.costs.count import abstract_variables
from attn_flax.errors import UserError
from attn_flax.models import create_model
from attn_flax.training.optimizer import decays, make_optimizer, make_schedule
from configs import base

PER_EPOCH = 10


@pytest.fixture(autouse=True)
def double_precision():
  """Computes in float64, so that formulas are compared without the rounding of float32."""
  with jax.enable_x64(True):
    yield


def config(**fields):
  made = base.get_config().optimizer
  made.update(fields)
  return made


def rates(fields, updates, batch_size=256):
  """The learning rate of each update of a run."""
  schedule = make_schedule(
    config(**fields), batch_size=batch_size, updates=updates, updates_per_epoch=PER_EPOCH
  )
  return np.array([float(schedule(update)) for update in range(updates)])


@pytest.mark.parametrize('batch_size', [32, 256, 1024])
def test_the_peak_grows_with_the_batch(batch_size):
  fields = {'schedule': 'constant', 'warmup_epochs': 0.0, 'lr_per_256': 0.3}
  np.testing.assert_allclose(rates(fields, 3, batch_size), 0.3 * batch_size / 256, rtol=1e-12)


def test_cosine_behind_a_linear_warmup():
  """The warm-up ends at the peak; the cosine starts there, and is 0 one update after the last."""
  actual = rates({'schedule': 'cosine', 'warmup_epochs': 1.5, 'lr_per_256': 0.2}, 60)
  ramp = 0.2 * np.arange(1, 16) / 15
  wave = 0.1 * (1 + np.cos(np.pi * np.arange(45) / 45))
  np.testing.assert_allclose(actual, np.concatenate([ramp, wave]), rtol=1e-12)
  assert actual.min() > 0


def test_cosine_of_a_trial_run_warms_up_for_a_tenth():
  """Two epochs of warm-up are too long for 20 updates, but not for twice their own length."""
  fields = {'schedule': 'cosine', 'warmup_epochs': 2.0, 'lr_per_256': 1.0}
  wave = 0.5 * (1 + np.cos(np.pi * np.arange(18) / 18))
  np.testing.assert_allclose(rates(fields, 20), [0.5, 1.0, *wave], rtol=1e-12)
  assert rates(fields, 3)[0] == 1.0
  np.testing.assert_allclose(rates(fields, 40)[:20], np.arange(1, 21) / 20, rtol=1e-12)


@pytest.mark.parametrize('warmup_epochs', [0.0, 1.0])
def test_steps_fall_at_the_named_epochs(warmup_epochs):
  fields = {
    'schedule': 'step', 'warmup_epochs': warmup_epochs, 'lr_per_256': 0.8,
    'step_epochs': (2, 4), 'step_factor': 0.5,
  }  # fmt: skip
  expected = np.array([0.8] * 20 + [0.4] * 20 + [0.2] * 10)
  warmup = round(warmup_epochs * PER_EPOCH)
  expected[:warmup] *= np.arange(1, warmup + 1) / max(warmup, 1)
  np.testing.assert_allclose(rates(fields, 50), expected, rtol=1e-12)


def test_constant_behind_a_warmup():
  actual = rates({'schedule': 'constant', 'warmup_epochs': 0.3, 'lr_per_256': 0.6}, 6)
  np.testing.assert_allclose(actual, [0.2, 0.4, 0.6, 0.6, 0.6, 0.6], rtol=1e-12)


@pytest.mark.parametrize('schedule', ['constant', 'step'])
def test_the_past_of_an_open_ended_schedule_does_not_depend_on_the_length(schedule):
  fields = {'schedule': schedule, 'warmup_epochs': 2.0}
  np.testing.assert_array_equal(rates(fields, 15), rates(fields, 70)[:15])


def test_steps_within_the_warmup_are_refused():
  with pytest.raises(UserError, match=r'step_epochs=\(1, 3\) begin within warmup_epochs=1.0'):
    rates({'schedule': 'step', 'step_epochs': (1, 3)}, 50)


def test_unknown_names_are_refused():
  with pytest.raises(UserError, match="unknown schedule 'cosin'; did you mean 'cosine'"):
    rates({'schedule': 'cosin'}, 5)
  with pytest.raises(UserError, match="unknown optimizer 'adam'; did you mean 'adamw'"):
    make_optimizer(config(name='adam'), optax.constant_schedule(0.1))


@pytest.fixture
def problem():
  """Parameters and the gradients of six updates: a matrix and a vector."""
  rng = np.random.default_rng(0)

  def draw():
    return {'kernel': rng.normal(size=(3, 2)), 'bias': rng.normal(size=2)}

  return draw(), [draw() for _ in range(6)]


def descend(optimizer, params, gradients):
  """The parameters after each update."""
  state, path = optimizer.init(params), []
  for gradient in gradients:
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    path.append(params)
  return path


def falling(count):
  """A schedule with another rate at each update, so that skipped or repeated updates show."""
  return 0.5 / (1 + count)


def assert_paths_agree(actual, expected, rtol=1e-12):
  for a, b in zip(actual, expected, strict=True):
    for name in b:
      np.testing.assert_allclose(a[name], b[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize('decay_all', [False, True])
@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd_with_l2_decay(problem, nesterov, decay_all):
  """As in PyTorch: the decay is added to the gradient, and so enters the momentum."""
  params, gradients = problem
  fields = {'nesterov': nesterov, 'decay_all': decay_all, 'weight_decay': 0.1, 'momentum': 0.8}
  actual = descend(make_optimizer(config(**fields), falling), params, gradients)

  point = {name: value for name, value in params.items()}
  velocity, expected = {'kernel': 0, 'bias': 0}, []
  for count, gradient in enumerate(gradients):
    for name in point:
      decay = 0.1 if name == 'kernel' or decay_all else 0
      g = gradient[name] + decay * point[name]
      velocity[name] = 0.8 * velocity[name] + g
      step = g + 0.8 * velocity[name] if nesterov else velocity[name]
      point[name] = point[name] - falling(count) * step
    expected.append(dict(point))
  assert_paths_agree(actual, expected)


@pytest.mark.parametrize('decay_all', [False, True])
def test_adamw_with_decoupled_decay(problem, decay_all):
  params, gradients = problem
  fields = {'name': 'adamw', 'weight_decay': 0.1, 'decay_all': decay_all}
  actual = descend(make_optimizer(config(**fields), falling), params, gradients)

  point = {name: value for name, value in params.items()}
  first, second, expected = {'kernel': 0, 'bias': 0}, {'kernel': 0, 'bias': 0}, []
  for count, gradient in enumerate(gradients, start=1):
    for name in point:
      g = gradient[name]
      first[name] = 0.9 * first[name] + 0.1 * g
      second[name] = 0.999 * second[name] + 0.001 * g**2
      step = first[name] / (1 - 0.9**count) / (np.sqrt(second[name] / (1 - 0.999**count)) + 1e-8)
      decay = 0.1 if name == 'kernel' or decay_all else 0
      point[name] = point[name] - falling(count - 1) * (step + decay * point[name])
    expected.append(dict(point))
  assert_paths_agree(actual, expected)


def test_momentum_of_zero_is_plain_descent(problem):
  params, gradients = problem
  fields = {'momentum': 0.0, 'nesterov': False, 'weight_decay': 0.0}
  (after, *_) = descend(make_optimizer(config(**fields), lambda _: 0.5), params, gradients)
  assert_paths_agree([after], [{name: params[name] - 0.5 * gradients[0][name] for name in params}])


@pytest.mark.parametrize('clip_norm', [0.5, 100.0])
def test_clipping_shortens_what_is_too_long(problem, clip_norm):
  """By the global norm of the gradient, before the weight decay is added."""
  params, gradients = problem
  fields = {'momentum': 0.0, 'nesterov': False, 'weight_decay': 0.2}
  optimizer = make_optimizer(config(**fields), lambda _: 0.5, clip_norm=clip_norm)
  (after, *_) = descend(optimizer, params, gradients)
  norm = np.sqrt(sum((g**2).sum() for g in gradients[0].values()))
  assert 0.5 < norm < 100
  shrink = min(1, clip_norm / norm)
  decay = {'kernel': 0.2, 'bias': 0.0}
  expected = {
    name: params[name] - 0.5 * (shrink * gradients[0][name] + decay[name] * params[name])
    for name in params
  }
  assert_paths_agree([after], [expected])


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
def test_accumulated_gradients_make_one_update_of_their_mean(problem, name):
  """The mean is clipped, the schedule counts updates, and weights change at updates alone."""
  params, gradients = problem
  parts = make_optimizer(config(name=name), falling, clip_norm=0.5, accumulate=3)
  whole = make_optimizer(config(name=name), falling, clip_norm=0.5)
  means = [jax.tree.map(lambda *g: np.mean(g, 0), *gradients[i : i + 3]) for i in (0, 3)]
  first, second = descend(whole, params, means)
  path = descend(parts, params, gradients)
  # Optax divides by the number of parts in float32.
  assert_paths_agree(path, [params, params, first, first, first, second], rtol=1e-6)


NOT_DECAYED = ('bias', 'scale')  # Names of parameters in norms, convolutions and dense layers.


@pytest.mark.parametrize('name', ATTENTION)
def test_kernels_decay_and_vectors_do_not(name):
  """In networks with each mechanism; the convolution of ECA is a kernel, too."""
  model = create_model('resnet18', attention=name, num_classes=10)
  params = abstract_variables(model, (32, 32, 3))['params']
  leaves = jax.tree_util.tree_leaves_with_path(params)
  chosen = jax.tree.leaves(decays(params, decay_all=False))
  for (path, leaf), decayed in zip(leaves, chosen, strict=True):
    assert decayed == (len(leaf.shape) >= 2), path
    if path[-1].key in NOT_DECAYED:
      assert not decayed, path
    if path[-1].key == 'kernel':
      assert decayed, path
  assert any('attention' in jax.tree_util.keystr(path) for path, _ in leaves)
  assert all(jax.tree.leaves(decays(params, decay_all=True)))


def decayed_names(**fields):
  """Names of what decays in a network of one block."""
  model = create_model(
    'resnet20', depths=(1,), widths=(16,), num_classes=10,
    attention={'branch': fields} if fields else None,
  )  # fmt: skip
  params = abstract_variables(model, (32, 32, 3))['params']
  chosen = jax.tree_util.tree_leaves_with_path(decays(params, decay_all=False))
  return {'/'.join(key.key for key in path) for path, decayed in chosen if decayed}


PLAIN = {
  'stem_conv/kernel', 'stage1_block1/conv1/kernel', 'stage1_block1/conv2/kernel', 'head/kernel'
}  # fmt: skip


def test_the_decaying_parameters_by_name():
  """Against a written list: every kernel, no scale and no bias."""
  inside = 'stage1_block1/branch_attention'
  assert decayed_names() == PLAIN
  assert decayed_names(name='eca') == PLAIN | {f'{inside}/channel/conv/kernel'}
  dense = {f'{inside}/channel/reduce/kernel', f'{inside}/channel/expand/kernel'}
  assert decayed_names(name='se', ratio=4) == PLAIN | dense
  spatial = {f'{inside}/spatial/conv/kernel'}
  assert decayed_names(name='cbam', ratio=4) == PLAIN | dense | spatial
