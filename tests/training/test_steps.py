"""The training and evaluation steps: pure, traced once, and equal to their formulas."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attn_flax.models import create_model
from attn_flax.tasks.classification import classification
from attn_flax.tasks.names import find_task
from attn_flax.training.optimizer import make_optimizer
from attn_flax.training.steps import init_state, make_eval_step, make_train_step
from configs import base

CLASSES = 7
SHAPE = (8, 8, 3)
KEY = jax.random.key(3)

pytestmark = pytest.mark.usefixtures('quick_compilation')


def network():
  return create_model(
    'resnet20', attention='se', attention_kwargs={'ratio': 4},
    depths=(1,), widths=(8,), num_classes=CLASSES,
  )  # fmt: skip


class Linear(nn.Module):
  """A network without batch norm, so that parts of a batch are independent, and with dropout."""

  dropout: float = 0.0

  @nn.compact
  def __call__(self, x, *, train):
    x = x.reshape(len(x), -1)
    return nn.Dense(CLASSES)(nn.Dropout(self.dropout, deterministic=not train)(x))


def batch(seed=0, size=12):
  rng = np.random.default_rng(seed)
  images = rng.normal(size=(size, *SHAPE)).astype(np.float32)
  return {'image': images, 'label': rng.integers(0, CLASSES, size).astype(np.int32)}


def prepare(
  model,
  *,
  schedule=lambda _: jnp.float32(0.1),
  ema=False,
  accumulate=1,
  label_smoothing=0.0,
  class_weights=None,
  **options,
):
  """A fresh state, and the step."""
  task = classification(label_smoothing, class_weights)
  optimizer = make_optimizer(base.get_config().optimizer, schedule, accumulate=accumulate)
  init = jax.jit(lambda key: init_state(model, optimizer, key, SHAPE, ema=ema))
  step = make_train_step(model, optimizer, schedule, task, accumulate=accumulate, **options)
  return init(jax.random.key(1)), jax.jit(step)


def test_a_step_is_a_pure_function():
  """The same arguments give the same result, and are not changed."""
  state, step = prepare(network(), ema=True, ema_decay=0.9)
  before = jax.device_get(state)
  after, metrics = step(state, batch(), KEY)
  again, metrics_again = step(state, batch(), KEY)
  chex.assert_trees_all_equal((after, metrics), (again, metrics_again))
  chex.assert_trees_all_equal(jax.device_get(state), before)
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@pytest.mark.parametrize('accumulate', [1, 3])
def test_many_steps_need_one_trace(accumulate):
  """Other states, batches, keys and learning rates do not cause another trace."""
  state, step = prepare(
    network(),
    schedule=optax.cosine_decay_schedule(0.1, 10),
    accumulate=accumulate,
    ema=True,
    ema_decay=0.9,
  )
  chex.clear_trace_counter()
  step = jax.jit(chex.assert_max_traces(step.__wrapped__, n=1))
  for i in range(7):
    state, _ = step(state, batch(i), jax.random.fold_in(KEY, i))
  assert state.step == 7


def test_the_loss_of_a_fixed_batch_falls():
  state, step = prepare(network())
  losses = []
  for _ in range(50):
    state, metrics = step(state, batch(), KEY)
    losses.append(float(metrics['loss']))
  assert np.log(CLASSES) < losses[0] < 4
  assert losses[-1] < losses[0] / 2


def test_metrics_are_those_of_the_batch():
  """Loss, hits and gradient norm against NumPy, from the logits of the network."""
  smoothing = 0.1
  schedule = optax.linear_schedule(0.1, 0.2, 10)
  state, step = prepare(network(), schedule=schedule, label_smoothing=smoothing)
  state, _ = step(state, batch(1), KEY)
  data = batch()
  _, metrics = step(state, data, KEY)

  def logits_of(params):
    variables = {'params': params, 'batch_stats': state.batch_stats}
    return network().apply(variables, data['image'], train=True, mutable=['batch_stats'])[0]

  targets = (1 - smoothing) * np.eye(CLASSES)[data['label']] + smoothing / CLASSES
  logits = np.asarray(logits_of(state.params), np.float64)
  loss = (np.log(np.exp(logits).sum(1)) - (targets * logits).sum(1)).mean()
  assert metrics['loss'] == pytest.approx(loss, rel=1e-5)
  order = np.argsort(-logits, axis=1)
  for k in (1, 5):
    hits = (order[:, :k] == data['label'][:, None]).any(1)
    assert metrics[f'top{k}'] == pytest.approx(hits.mean())
  assert metrics['lr'] == pytest.approx(0.11)

  # The gradient of the loss with respect to the logits, softmax - targets, pulled back.
  _, pull_back = jax.vjp(logits_of, state.params)
  softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  (gradient,) = pull_back(jnp.asarray((softmax - targets) / len(logits), jnp.float32))
  squares = [np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(gradient)]
  assert metrics['grad_norm'] == pytest.approx(np.sqrt(sum(squares)), rel=1e-4)
  assert metrics.keys() == {'loss', 'top1', 'top5', 'lr', 'grad_norm'}


def test_labels_may_be_probabilities():
  state, step = prepare(network(), label_smoothing=0.1)
  hard = batch()
  soft = hard | {'label': np.eye(CLASSES, dtype=np.float32)[hard['label']]}
  expected = step(state, hard, KEY)
  state, step = prepare(network(), label_smoothing=0.1)
  chex.assert_trees_all_close(step(state, soft, KEY), expected, rtol=1e-6)


def test_batch_statistics_follow_the_batches():
  """Each step stores what the network itself returns; evaluation then uses it."""
  state, step = prepare(network())
  data = batch()
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  _, updated = network().apply(variables, data['image'], train=True, mutable=['batch_stats'])
  after, _ = step(state, data, KEY)
  chex.assert_trees_all_close(after.batch_stats, updated['batch_stats'], rtol=1e-5, atol=1e-6)
  for old, new in zip(*map(jax.tree.leaves, (state.batch_stats, after.batch_stats)), strict=True):
    assert not np.array_equal(old, new)


@pytest.mark.parametrize('accumulate', [1, 3])
def test_the_average_of_weights_and_statistics(accumulate):
  """ema = d * ema + (1 - d) * value after each whole update t, d = min(decay, (1 + t)/(10 + t))."""
  decay = 0.25  # Lower than (1 + t)/(10 + t) from t = 2 on.
  state, step = prepare(network(), ema=True, ema_decay=decay, accumulate=accumulate)
  expected = jax.tree.map(
    lambda x: np.asarray(x, np.float64),
    {'params': state.params, 'batch_stats': state.batch_stats},
  )
  chex.assert_trees_all_close(state.ema, expected)
  for i in range(4 * accumulate):
    state, _ = step(state, batch(i), KEY)
    if (i + 1) % accumulate == 0:
      update = i // accumulate
      d = min(decay, (1 + update) / (10 + update))
      now = {'params': state.params, 'batch_stats': state.batch_stats}
      expected = jax.tree.map(lambda old, new, d=d: d * old + (1 - d) * new, expected, now)
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-5, atol=1e-6)


def test_without_a_decay_no_average_is_kept():
  state, step = prepare(network())
  assert state.ema is None
  assert step(state, batch(), KEY)[0].ema is None


def test_parts_of_a_batch_make_the_update_of_the_whole():
  """In a network that treats examples independently; two updates of three parts each."""
  parts, step = prepare(Linear(), accumulate=3)
  whole, big_step = prepare(Linear())
  for update in range(2):
    data = batch(update, size=12)
    losses = []
    for i in range(3):
      part = {name: values[4 * i : 4 * i + 4] for name, values in data.items()}
      parts, metrics = step(parts, part, KEY)
      losses.append(metrics['loss'])
    whole, metrics = big_step(whole, data, KEY)
    np.testing.assert_allclose(np.mean(losses), metrics['loss'], rtol=1e-5)
    chex.assert_trees_all_close(parts.params, whole.params, rtol=1e-5, atol=1e-6)
  assert parts.step == 6 and whole.step == 2


def test_the_schedule_counts_updates_not_parts():
  schedule = optax.linear_schedule(1.0, 0.0, 10)
  state, step = prepare(Linear(), schedule=schedule, accumulate=3)
  seen = []
  for i in range(7):
    state, metrics = step(state, batch(i), KEY)
    seen.append(float(metrics['lr']))
  np.testing.assert_allclose(seen, [1.0] * 3 + [0.9] * 3 + [0.8], rtol=1e-6)


def test_the_key_decides_what_is_dropped():
  state, step = prepare(Linear(dropout=0.5))
  losses = [float(step(state, batch(), jax.random.key(seed))[1]['loss']) for seed in (1, 1, 2)]
  assert losses[0] == losses[1] != losses[2]


def test_a_fresh_state_shares_no_buffer_with_its_average():
  """A donated state must not contain a buffer twice."""
  state, _ = prepare(network(), ema=True, ema_decay=0.9)
  leaves = jax.tree.leaves(state)
  assert len({leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size}) == len(leaves)


def test_evaluation_sums_over_the_mask_and_leaves_the_network_alone():
  """It uses running statistics, so that logits do not depend on the other examples."""
  state, step = prepare(network())
  state, _ = step(state, batch(1), KEY)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  data = batch() | {'mask': np.array([1] * 9 + [0] * 3, np.float32)}
  eval_step = jax.jit(make_eval_step(network(), find_task('classification')))
  sums, predictions = eval_step(variables, data)
  logits = predictions['logits']
  np.testing.assert_array_equal(predictions['labels'], data['label'])
  assert logits.shape == (12, CLASSES) and logits.dtype == jnp.float32
  changed = data | {'image': np.concatenate([data['image'][:9], 100 * data['image'][9:]])}
  sums_changed, predictions_changed = eval_step(variables, changed)
  logits_changed = predictions_changed['logits']
  chex.assert_trees_all_equal(sums, sums_changed)
  np.testing.assert_allclose(logits[:9], logits_changed[:9], rtol=1e-5, atol=1e-6)
  kept = np.asarray(logits, np.float64)[:9]
  own = kept[np.arange(9), data['label'][:9]]
  assert sums['loss'] == pytest.approx((np.log(np.exp(kept).sum(1)) - own).sum(), rel=1e-5)
  assert sums['top1'] == (kept.argmax(1) == data['label'][:9]).sum()
  assert sums['count'] == 9
