"""Settings of the whole test session, made before anything imports JAX."""

import os
import tempfile

import pytest

# Many tests compile the same programs, some of them in subprocesses, which inherit this folder.
_CACHE = None
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _CACHE = tempfile.TemporaryDirectory(prefix='jax_cache_')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _CACHE.name
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
# Products in full float32 also where an accelerator would round their factors first.
os.environ.setdefault('JAX_DEFAULT_MATMUL_PRECISION', 'float32')


def pytest_unconfigure():
  """Removes the compilation cache."""
  if _CACHE is not None:
    _CACHE.cleanup()


@pytest.fixture(scope='session')
def randomized():
  """A function that replaces a tree of variables, or of their shapes, by random ones.

  Scales lie around 1 and variances around 1, both away from 0; all else is normal, and kernels
  keep the size of their sums. No value is one that an initializer leaves, such as a zero bias.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np

  def randomize(variables, seed=0):
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
      name = path[-1].key
      if name in ('scale', 'var'):
        value = rng.uniform(0.5, 1.5, leaf.shape)
      elif name == 'kernel':
        value = rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
      else:
        value = 0.5 * rng.normal(size=leaf.shape)
      return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)

  return randomize


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """A folder of datasets that holds a reduced copy of the embedded one."""
  import small_data

  folder = tmp_path_factory.mktemp('datasets')
  small_data.prepare(folder)
  return folder


@pytest.fixture(scope='module')
def small_dataset(data_dir):
  """Makes runs read the reduced copy of the embedded dataset; the value is the row of the whole."""
  import small_data

  from attn_flax import data

  with pytest.MonkeyPatch.context() as patch:
    whole = data.DATASETS['cluttered_digits']
    patch.setenv('TFDS_DATA_DIR', str(data_dir))
    patch.setitem(data.DATASETS, 'cluttered_digits', small_data.spec())
    yield whole


@pytest.fixture(scope='module')
def quick_compilation():
  """Spares the optimization of programs that run only a few times."""
  import jax

  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture
def stop_after(monkeypatch):
  """A function that has a signal sent to this process when a run has made an update."""
  import signal

  from attn_flax.training.distributed import processes

  asked_to_stop = processes.asked_to_stop

  def stop_after(update, number=signal.SIGTERM):
    def stop_and_ask(stop, step):
      if step == update:
        signal.raise_signal(number)
      return asked_to_stop(stop, step)

    monkeypatch.setattr(processes, 'asked_to_stop', stop_and_ask)

  return stop_after
