"""The vision transformer: counts, values against NumPy, attention weights, taps and training."""

import math

import chex
import flax.errors
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick_jit import jit

from attn_flax.costs.count import abstract_variables, count_params, macs
from attn_flax.errors import UserError
from attn_flax.models import vit
from attn_flax.models.vit import EncoderBlock, SelfAttention, ViT
from attn_flax.tasks.names import find_task
from attn_flax.training.steps import TrainState, init_state, make_eval_step, make_train_step

# patch, width, depth, heads, mlp_width
TI16 = (16, 192, 12, 3, 768)
S16 = (16, 384, 12, 6, 1536)
B16 = (16, 768, 12, 12, 3072)
TINY32 = (4, 192, 6, 3, 768)

# Two blocks on 2x3 patches.
SMALL = {'patch': 4, 'width': 12, 'depth': 2, 'heads': 3, 'mlp_width': 20, 'num_classes': 5}
IMAGE = (8, 12, 3)


# --- counts

# Parameters published for 224x224 images and 1000 classes with timm's and torchvision's weights;
# the multiply-adds of Touvron et al., "Training data-efficient image transformers" (ICML 2021,
# https://arxiv.org/abs/2012.12877), table 5, in units of 1e9: 1.3, 4.6 and 17.6.
GOLDEN = [
  (TI16, 224, 'token', 5_717_416, (1_074_851_328, 178_831_872), '1.3'),
  (S16, 224, 'token', 22_050_664, (4_241_218_560, 357_663_744), '4.6'),
  (B16, 224, 'token', 86_567_656, (16_848_500_736, 715_327_488), '17.6'),
  (TINY32, 32, 'token', 2_884_648, (173_305_344, 9_734_400), None),
  (TINY32, 32, 'mean', 2_884_264, (170_651_136, 9_437_184), None),
]


@pytest.mark.parametrize(('sizes', 'side', 'pool', 'params', 'costs', 'printed'), GOLDEN)
def test_golden_counts(sizes, side, pool, params, costs, printed):
  model = ViT(*sizes, pool=pool)
  variables = abstract_variables(model, (side, side, 3))
  assert set(variables) == {'params'}
  assert count_params(variables) == params
  assert macs(model, (side, side, 3)) == costs
  if printed:
    assert f'{sum(costs) / 1e9:.1f}' == printed


@pytest.mark.parametrize(('sizes', 'side', 'pool', 'params', 'costs', 'printed'), GOLDEN)
def test_golden_counts_follow_from_the_layers(sizes, side, pool, params, costs, printed):
  patch, width, depth, heads, mlp = sizes
  patches = (side // patch) ** 2
  tokens = patches + (pool == 'token')
  inputs = patch * patch * 3
  dense = [(width, 3 * width), (width, width), (width, mlp), (mlp, width)]
  weights = sum(a * b for a, b in dense)
  biases = sum(b for _, b in dense)
  counted = (inputs + 1) * width + (tokens + tokens - patches) * width  # positions, class token
  counted += depth * (weights + biases + 2 * 2 * width) + 2 * width + (width + 1) * 1000
  assert counted == params
  layers = patches * inputs * width + depth * tokens * weights + width * 1000
  assert (layers, depth * 2 * tokens * tokens * width) == costs


# --- shapes and dtypes


def _small(**fields):
  return ViT(**{**SMALL, **fields})


def _images(n=2, shape=IMAGE, seed=0):
  return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def _apply(model, variables, x):
  """Logits in evaluation mode, and the recorded feature maps."""
  run = jit(lambda v, x: model.apply(v, x, train=False, mutable=['intermediates']))
  logits, state = run(variables, x)
  return logits, state['intermediates']


@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_bfloat16_computes_and_float32_is_kept(pool, randomized):
  model = _small(pool=pool, dtype='bfloat16')
  variables = randomized(abstract_variables(model, IMAGE))
  chex.assert_trees_all_equal_dtypes(
    variables, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables)
  )
  logits, maps = _apply(model, variables, _images())
  chex.assert_shape(logits, (2, 5))
  assert logits.dtype == jnp.float32
  assert maps['stage1'][0].dtype == jnp.bfloat16
  exact, _ = _apply(_small(pool=pool), variables, _images())
  np.testing.assert_allclose(logits, exact, atol=0.05 * np.abs(exact).max())


def test_properties_and_names():
  model = _small()
  assert (model.num_stages, model.stride, ViT.places) == (1, 4, ())
  assert hash(model) == hash(_small())
  assert model != _small(pool='mean')
  params = abstract_variables(model, IMAGE)['params']
  assert set(params) == {'patches', 'class_token', 'position', 'block1', 'block2', 'norm', 'head'}
  assert set(params['block1']) == {'norm1', 'attention', 'norm2', 'mlp1', 'mlp2'}
  assert params['position'].shape == (1, 7, 12)
  without = abstract_variables(_small(pool='mean'), IMAGE)['params']
  assert set(params) - set(without) == {'class_token'}
  assert without['position'].shape == (1, 6, 12)


# --- against NumPy


class Oracle:
  """Layers in float64 over a tree of parameters, with loops over images, heads and tokens."""

  def __init__(self, params, heads, gelu='tanh'):
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    self.params = {path: np.asarray(value, np.float64) for path, value in flat.items()}
    self.heads = heads
    self.gelu = gelu

  def dense(self, x, name):
    return x @ self.params[f'{name}/kernel'] + self.params[f'{name}/bias']

  def norm(self, x, name):
    centered = x - x.mean(-1, keepdims=True)
    y = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
    return y * self.params[f'{name}/scale'] + self.params[f'{name}/bias']

  def weights(self, x, name):
    """Weights [N, heads, T, T] and values [N, T, C]."""
    width = x.shape[-1]
    q, k, v = np.split(self.dense(x, f'{name}/qkv'), 3, axis=-1)
    size = width // self.heads
    weights = np.zeros((len(x), self.heads, x.shape[1], x.shape[1]))
    for image in range(len(x)):
      for head in range(self.heads):
        part = slice(head * size, (head + 1) * size)
        for token in range(x.shape[1]):
          scores = k[image, :, part] @ q[image, token, part] / math.sqrt(size)
          weights[image, head, token] = np.exp(scores) / np.exp(scores).sum()
    return weights, v

  def attention(self, x, name):
    weights, v = self.weights(x, name)
    size = x.shape[-1] // self.heads
    y = np.zeros_like(x)
    for image in range(len(x)):
      for head in range(self.heads):
        part = slice(head * size, (head + 1) * size)
        y[image, :, part] = weights[image, head] @ v[image, :, part]
    return self.dense(y, f'{name}/output')

  def activation(self, x):
    if self.gelu == 'exact':
      return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

  def block(self, x, name):
    x = x + self.attention(self.norm(x, f'{name}norm1'), f'{name}attention')
    y = self.activation(self.dense(self.norm(x, f'{name}norm2'), f'{name}mlp1'))
    return x + self.dense(y, f'{name}mlp2')

  def network(self, images, patch, depth, pool):
    """Logits, and the patches' tokens before and after the last block."""
    rows, columns = (size // patch for size in images.shape[1:3])
    kernel = self.params['patches/kernel']
    tokens = []
    for i in range(rows):
      for j in range(columns):
        window = images[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
        tokens.append(np.tensordot(window, kernel, 3) + self.params['patches/bias'])
    x = np.stack(tokens, axis=1)
    if pool == 'token':
      first = np.broadcast_to(self.params['class_token'], (len(x), 1, x.shape[-1]))
      x = np.concatenate([first, x], axis=1)
    x = x + self.params['position']
    for i in range(depth):
      before = x
      x = self.block(x, f'block{i + 1}/')
    pooled = self.norm(x, 'norm')
    pooled = pooled[:, 0] if pool == 'token' else pooled.mean(1)
    return self.dense(pooled, 'head'), before, x


@pytest.mark.parametrize('gelu', ['tanh', 'exact'])
def test_block_matches_its_definition(gelu, randomized):
  block = EncoderBlock(heads=2, mlp_width=14, gelu=gelu)
  x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
  shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), x)
  variables = randomized(shapes)
  y = jit(lambda v, x: block.apply(v, x, train=False))(variables, x)
  expected = Oracle(variables['params'], 2, gelu).block(x.astype(np.float64), '')
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_network_matches_its_definition(pool, randomized):
  model, x = _small(pool=pool), _images(3)
  variables = randomized(abstract_variables(model, IMAGE))
  logits, maps = _apply(model, variables, x)
  oracle = Oracle(variables['params'], 3)
  expected, before, behind = oracle.network(x.astype(np.float64), 4, 2, pool)
  np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
  # The map holds the patches, row by row.
  patches = before[:, 1:] if pool == 'token' else behind
  np.testing.assert_allclose(maps['stage1'][0], patches.reshape(3, 2, 3, 12), rtol=1e-3, atol=1e-4)


def test_weights_of_chosen_tokens(randomized):
  attention = SelfAttention(heads=2)
  x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
  variables = randomized(jax.eval_shape(lambda x: attention.init(jax.random.key(0), x), x))
  queries = jnp.array([4, 0, 1])
  weights = attention.apply(variables, x, queries, method='weights')
  chex.assert_shape(weights, (3, 2, 3, 5))
  assert weights.dtype == jnp.float32
  np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
  flat = {'a': variables['params']}
  expected, _ = Oracle(flat, 2).weights(x.astype(np.float64), 'a')
  np.testing.assert_allclose(weights, expected[:, :, [4, 0, 1]], rtol=1e-4, atol=1e-6)


def test_nothing_as_large_as_the_weights_is_recorded(randomized):
  model = _small()
  variables = randomized(abstract_variables(model, IMAGE))
  _, maps = _apply(model, variables, _images())
  assert set(maps) == {'stage1'}


@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_permuted_patches_permute_the_map(pool, randomized):
  """Without position vectors, the logits do not change either."""
  model, x = _small(pool=pool), _images()
  variables = randomized(abstract_variables(model, IMAGE))
  variables['params']['position'] = jnp.zeros_like(variables['params']['position'])
  order = np.array([3, 0, 5, 1, 4, 2])

  def permute(images, patch):
    n, height, width, channels = images.shape
    cut = images.reshape(n, height // patch, patch, width // patch, patch, channels)
    pieces = cut.transpose(0, 1, 3, 2, 4, 5).reshape(n, 6, patch, patch, channels)[:, order]
    cut = pieces.reshape(n, 2, 3, patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(images.shape)

  logits, maps = _apply(model, variables, x)
  moved, moved_maps = _apply(model, variables, permute(x, 4))
  np.testing.assert_allclose(moved, logits, rtol=1e-3, atol=1e-4)
  expected = permute(np.asarray(maps['stage1'][0]), 1)
  np.testing.assert_allclose(moved_maps['stage1'][0], expected, rtol=1e-3, atol=1e-4)
  assert np.abs(expected - maps['stage1'][0]).max() > 0.1


@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_every_recorded_token_acts_on_the_logits(pool, randomized):
  model, x = _small(pool=pool), _images()
  variables = randomized(abstract_variables(model, IMAGE))

  @jit
  def gradient(nudge):
    def total(nudge):
      given = {**variables, 'perturbations': {'stage1': nudge}}
      return jnp.square(model.apply(given, x, train=False)).sum()

    return jax.grad(total)(nudge)

  assert (np.abs(gradient(jnp.zeros((2, 2, 3, 12)))).max(-1) > 1e-4).all()


# --- initial weights


def test_initial_weights_are_the_released_ones():
  """Xavier for every square and MLP kernel; those of q, k and v are drawn together."""
  model, x = ViT(patch=4, width=64, depth=1, heads=2, mlp_width=128), _images(1, (8, 8, 3))

  @jit
  def draw(key):
    params = model.init(key, x, train=False)['params']
    block = params['block1']
    return block['attention']['qkv'], block['mlp1'], params['position'], params['class_token']

  qkv, mlp, position, token = draw(jax.random.key(0))
  for layer, limit in ((qkv, math.sqrt(6 / (64 + 64))), (mlp, math.sqrt(6 / (64 + 128)))):
    assert 0.99 * limit < np.abs(layer['kernel']).max() <= limit
    assert np.abs(layer['bias']).max() < 1e-5
  np.testing.assert_allclose(position.std(), 0.02, rtol=0.2)
  np.testing.assert_array_equal(token, 0)


def test_a_head_may_start_at_zero():
  model, x = _small(zero_init_head=True, depth=1), _images(1)
  head = jit(lambda key: model.init(key, x, train=False)['params']['head'])(jax.random.key(0))
  np.testing.assert_array_equal(head['kernel'], 0)


# --- training


def test_gradient_reaches_every_parameter(randomized):
  model, x = _small(), _images()
  variables = randomized(abstract_variables(model, IMAGE))

  @jit
  def gradients(variables):
    return jax.grad(lambda v: (model.apply(v, x, train=True) ** 2).sum())(variables)

  found = flax.traverse_util.flatten_dict(gradients(variables)['params'], sep='/')
  for path, leaf in found.items():
    assert np.isfinite(leaf).all()
    if path.endswith('qkv/bias'):
      # The softmax cancels what is added to all keys.
      query, key, value = np.abs(np.split(leaf, 3)).max(1)
      assert key < 1e-5 * value < query
    else:
      assert np.abs(leaf).max() > 1e-4, path


def test_it_trains_without_batch_statistics(randomized):
  model, optimizer = _small(depth=1, dropout=0.1), optax.sgd(0.01)
  fresh = jax.eval_shape(
    lambda key: init_state(model, optimizer, key, IMAGE, ema=True), jax.random.key(0)
  )
  assert fresh.batch_stats == {}
  assert set(fresh.ema) == {'params', 'batch_stats'}
  params = randomized(fresh.params)
  ema = {'params': params, 'batch_stats': {}}
  state = TrainState(jnp.int32(0), params, {}, optimizer.init(params), ema)

  step = jit(
    make_train_step(model, optimizer, lambda step: 0.01, find_task('classification'), ema_decay=0.9)
  )
  batch = {'image': jnp.asarray(_images(4)), 'label': jnp.array([0, 1, 2, 3])}
  losses = []
  for i in range(8):
    state, metrics = step(state, batch, jax.random.key(i))
    losses.append(float(metrics['loss']))
  assert losses[-1] < losses[0]
  assert state.batch_stats == {}
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  batch['mask'] = jnp.ones(4)
  _, predictions = jax.eval_shape(
    make_eval_step(model, find_task('classification')), variables, batch
  )
  chex.assert_shape(predictions['logits'], (4, 5))


def test_dropout_needs_a_key_in_training_only():
  def run(model, train, **rngs):
    images = jax.ShapeDtypeStruct((2, *IMAGE), jnp.float32)
    variables = abstract_variables(model, IMAGE)
    jax.eval_shape(lambda v, x: model.apply(v, x, train=train, rngs=rngs), variables, images)

  run(_small(dropout=0.1), train=False)
  run(_small(dropout=0.1), train=True, dropout=jax.random.key(0))
  run(_small(), train=True)
  with pytest.raises(flax.errors.InvalidRngError):
    run(_small(dropout=0.1), train=True)


# --- errors


@pytest.mark.parametrize(
  ('fields', 'shape', 'message'),
  [
    ({}, (8, 10, 3), 'images of 8x10 pixels do not divide into patches of side 4.*multiples of 4'),
    ({'heads': 5}, IMAGE, 'width=12 cannot be split into heads=5'),
    ({'heads': 0}, IMAGE, 'heads=0 is impossible; choose a whole number from 1 to'),
    ({'pool': 'max'}, IMAGE, "unknown pool 'max'.*mean, token"),
    ({'gelu': 'erf'}, IMAGE, "unknown gelu 'erf'.*exact, tanh"),
    ({'dtype': 'float16'}, IMAGE, "unknown dtype 'float16'.*bfloat16, float32"),
    ({'dropout': -0.1}, IMAGE, 'dropout=-0.1 is impossible.*of at least 0 and below 1'),
  ],
)
def test_mistakes_are_named(fields, shape, message):
  with pytest.raises(UserError, match=message):
    abstract_variables(_small(**fields), shape)


def test_images_of_another_size_are_refused(randomized):
  model = _small()
  variables = randomized(abstract_variables(model, IMAGE))
  with pytest.raises(UserError, match='make 10 tokens, .* was made for 7'):
    jax.eval_shape(lambda x: model.apply(variables, x, train=False), _images(1, (12, 12, 3)))


def test_the_norm_keeps_its_digits_far_from_zero():
  """At a mean of 10^4 standard deviations."""
  x = np.float32(10_000) + np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
  exact = x.astype(np.float64)
  exact = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
  norm = vit._norm()
  found = norm.apply(norm.init(jax.random.key(0), x), x)
  np.testing.assert_allclose(found, exact, atol=2e-2)
