"""One device and eight agree: steps, per-device statistics, evaluation, and whole runs.

Run as a script, this file computes on eight devices what the tests compare with one device.
"""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_files
import small_data
from jax.sharding import NamedSharding, PartitionSpec

from attn_flax import data
from attn_flax.commands import command_line
from attn_flax.data.augment.augmentation import Augmentation
from attn_flax.data.pipeline.resident import Resident
from attn_flax.models import create_model
from attn_flax.tasks.names import find_task
from attn_flax.training.experiment import make_mesh
from attn_flax.training.optimizer import make_optimizer
from attn_flax.training.steps import init_state, make_eval_step, make_train_step
from configs import base

ROOT = pathlib.Path(__file__).parents[2]
DEVICES = 8
SHAPE = (8, 8, 3)
STEPS = 3
KEY = jax.random.key(0)

pytestmark = pytest.mark.usefixtures('quick_compilation')


def network():
  return create_model('resnet20', attention='eca', depths=(1,), widths=(8,), num_classes=10)


def make_split(count):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
  return data.Split(images, rng.integers(0, 10, count).astype(np.int32))


def prepare(mesh, per_device=False):
  """A replicated fresh state, its step, and how often the step was traced so far."""
  optimizer = make_optimizer(base.get_config().optimizer, lambda _: 0.1)
  replicated = NamedSharding(mesh, PartitionSpec())
  # Made on one device, so that both meshes start from exactly the same weights.
  state = jax.jit(lambda key: init_state(network(), optimizer, key, SHAPE, ema=False))(KEY)
  step = make_train_step(
    network(),
    optimizer,
    lambda _: 0.1,
    find_task('classification'),
    per_device=mesh if per_device else None,
  )
  traces = []

  def counted(state, batch, key):
    traces.append(1)
    return step(state, batch, key)

  jitted = jax.jit(counted, out_shardings=replicated, donate_argnums=0)
  return jax.device_put(state, replicated), jitted, traces


def train(mesh):
  """Metrics of three augmented steps, then the state; and the number of traces."""
  augmentation = Augmentation((0.5,) * 3, (0.25,) * 3, crop_padding=1, flip=True)
  pipeline = Resident(make_split(64), 16, seed=0, augmentation=augmentation, mesh=mesh)
  state, step, traces = prepare(mesh)
  make_batch = jax.jit(pipeline.train_batch)
  found = {}
  for i, inputs in zip(range(STEPS), pipeline.batches(), strict=False):
    batch = make_batch(pipeline.constants, inputs, jax.random.fold_in(KEY, i))
    assert len(batch['image'].sharding.device_set) == mesh.size
    assert batch['image'].sharding.shard_shape((16, *SHAPE))[0] == 16 // mesh.size
    state, metrics = step(state, batch, KEY)
    found |= {f'{i}/{name}': value for name, value in metrics.items()}
  for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.batch_stats)):
    assert leaf.sharding.is_fully_replicated
    found[jax.tree_util.keystr(path)] = leaf
  return {name: np.asarray(value) for name, value in found.items()} | {'traces': len(traces)}


def evaluate(mesh):
  """Sums and logits of a split whose last batch is not full, under a fresh network."""
  pipeline = Resident(
    make_split(41), 16, seed=0, augmentation=Augmentation((0.5,) * 3, (0.25,) * 3), mesh=mesh
  )
  state, _, _ = prepare(mesh)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  eval_step = jax.jit(make_eval_step(network(), find_task('classification')))
  found = {}
  for i, inputs in enumerate(pipeline.eval_batches()):
    sums, predictions = eval_step(variables, pipeline.eval_batch(pipeline.constants, inputs))
    found |= {f'{i}/{name}': value for name, value in sums.items()} | {
      f'{i}/logits': predictions['logits']
    }
  return {name: np.asarray(value) for name, value in found.items()}


def per_device_step(mesh):
  """Gradient norm, loss and statistics of a step whose batch norms use per-device statistics."""
  state, step, _ = prepare(mesh, per_device=True)
  batch = {'image': normal_images(), 'label': make_split(16).label}
  spread = NamedSharding(mesh, PartitionSpec('data'))
  state, metrics = step(state, jax.device_put(batch, spread), KEY)
  found = {'loss': metrics['loss'], 'grad_norm': metrics['grad_norm']}
  for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.batch_stats)):
    found[jax.tree_util.keystr(path)] = leaf
  return {name: np.asarray(value) for name, value in found.items()}


def normal_images():
  return np.random.default_rng(1).normal(size=(16, *SHAPE)).astype(np.float32)


def on_eight_devices(folder):
  """What the tests read: arrays of steps and evaluation, and a whole run from the command line."""
  assert jax.device_count() == DEVICES
  mesh = make_mesh()
  for function in (train, evaluate, per_device_step):
    np.savez(folder / f'{function.__name__}.npz', **function(mesh))
  data.DATASETS['cluttered_digits'] = small_data.spec()
  codes = [command_line.run([*command(folder / 'run')])]
  codes.append(command_line.run([*command(folder / 'run'), '--mode=evaluate']))
  codes.append(command_line.run([*command(folder / 'other'), '--config.train.batch_size=12']))
  codes.append(
    command_line.run([*command(folder / 'local'), '--config.train.batch_norm=per_device'])
  )
  (folder / 'codes.json').write_text(json.dumps(codes))


def command(workdir):
  tiny = ['--config.model.depths=(1,)', '--config.model.widths=(8,)', '--config.train.steps=3']
  return ['main.py', f'--config={ROOT}/configs/eca.py:smoke', *tiny, f'--workdir={workdir}']


@pytest.fixture(scope='module')
def eight(data_dir, tmp_path_factory):
  """The folder with the results of eight devices, and the output of the script."""
  folder = tmp_path_factory.mktemp('eight')
  environment = os.environ | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={DEVICES}',
    'JAX_PLATFORMS': 'cpu',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true',
    'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests' / 'helpers')]),
    'TFDS_DATA_DIR': str(data_dir),
  }
  done = subprocess.run(
    [sys.executable, '-W', 'error::UserWarning', __file__, str(folder)],
    cwd=ROOT, env=environment, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return folder, done


def load(folder, name):
  with np.load(folder / f'{name}.npz') as arrays:
    return dict(arrays)


def assert_close(actual, expected):
  """To 1e-5 of each array's largest value, as sums over a batch are added in another order."""
  assert actual.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_allclose(
      actual[name], array, rtol=1e-5, atol=1e-5 * np.abs(array).max(), err_msg=name
    )


def test_three_steps_agree(eight):
  """Loss, gradient norm, statistics and weights; the step is traced once on either mesh."""
  folder, _ = eight
  actual, expected = load(folder, 'train'), train(make_mesh())
  assert make_mesh().size == 1
  assert {'0/loss', '2/grad_norm', '2/top1'} <= expected.keys()
  assert actual['traces'] == expected['traces'] == 1
  assert_close(actual, expected)


def test_evaluation_agrees(eight):
  folder, _ = eight
  actual, expected = load(folder, 'evaluate'), evaluate(make_mesh())
  assert sum(float(expected[f'{i}/count']) for i in range(3)) == 41
  assert_close(actual, expected)


def test_per_device_norms_average_over_the_parts(eight):
  """Against each eighth of the batch computed separately, and everything averaged."""
  folder, _ = eight
  actual = load(folder, 'per_device_step')
  state, _, _ = prepare(make_mesh())
  optimizer = make_optimizer(base.get_config().optimizer, lambda _: 0.1)
  images, labels = normal_images(), make_split(16).label

  def loss_of(params, images, labels):
    variables = {'params': params, 'batch_stats': state.batch_stats}
    logits, updated = network().apply(variables, images, train=True, mutable=['batch_stats'])
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
    return -own.mean(), updated['batch_stats']

  gradient_of = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
  shards = zip(np.split(images, DEVICES), np.split(labels, DEVICES), strict=True)
  parts = [gradient_of(state.params, *shard) for shard in shards]
  (loss, statistics), gradient = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *parts)
  updates, _ = optimizer.update(gradient, state.opt_state, state.params)
  params = jax.tree.map(lambda p, u: p + u, state.params, updates)
  squares = [np.square(g).sum() for g in jax.tree.leaves(gradient)]
  expected = {'loss': loss, 'grad_norm': np.sqrt(sum(squares))}
  for path, leaf in jax.tree_util.tree_leaves_with_path((params, statistics)):
    expected[jax.tree_util.keystr(path)] = np.asarray(leaf)
  assert_close(actual, expected)


def test_a_run_on_eight_devices_agrees_with_one(eight, small_dataset, tmp_path):
  """From the command line: training, result, and evaluation of the finished folder."""
  folder, done = eight
  assert json.loads((folder / 'codes.json').read_text()) == [0, 0, 2, 0]
  assert command_line.run(command(tmp_path / 'run')) == 0
  actual, expected = (run_files.scores(path / 'run') for path in (folder, tmp_path))
  assert actual == pytest.approx(expected, rel=1e-5)
  again = run_files.read(folder / 'run', 'evaluation.json')
  assert again['device_count'] == DEVICES
  assert actual.items() <= again.items()
  assert run_files.scores(folder / 'local')['test_loss'] != actual['test_loss']


def test_a_batch_that_eight_devices_cannot_share_is_refused(eight):
  folder, done = eight
  message = 'train.batch_size / train.accumulate = 12 cannot be shared evenly by 8 devices; choose'
  assert done.stderr.count('error: ') == 1 and message in done.stderr
  assert not (folder / 'other').exists()


if __name__ == '__main__':
  on_eight_devices(pathlib.Path(sys.argv[1]))
