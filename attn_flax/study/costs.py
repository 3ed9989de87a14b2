"""The costs of each variant; all are timed in turn, in one process."""

import contextlib
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.costs import count
from attn_flax.costs.timing import interleave, peak_bytes, ratio
from attn_flax.data.pipeline.protocol import Pipeline
from attn_flax.layers.types import Variables
from attn_flax.models.network import Network
from attn_flax.study.findings import Cost, Ratio
from attn_flax.training import program_cache
from attn_flax.training.experiment import Experiment
from attn_flax.training.steps import TrainState
from attn_flax.training.updates import compile_step


def measure(
  experiment: Experiment, models: Mapping[str, Network], baseline: str, rounds: int
) -> dict[str, Cost]:
  """Times training steps and forward passes of networks that differ in their attention alone.

  Args:
    experiment: what their runs share.
    models: the network of each variant.
    baseline: the variant that the others are compared with.
    rounds: how often each is timed.

  Returns:
    {variant: costs}.
  """
  steps, singles, batches = {}, {}, {}
  peaks, compiling = {}, {}
  eval_batch = experiment.config.eval.batch_size
  pipeline = experiment.train_pipeline()
  for name, model in models.items():
    own = experiment._replace(model=model)
    state = own.fresh_state(jax.random.key(0))
    # A copy, because the training step donates the buffers of its state.
    variables = jax.tree.map(jnp.copy, {'params': state.params, 'batch_stats': state.batch_stats})
    steps[name], peaks[name], compiling[name] = _training_step(own, pipeline, state)
    singles[name] = _forward(own, variables, 1)
    batches[name] = _forward(own, variables, eval_batch)
  times = {
    'step_ms': interleave(steps, rounds=rounds),
    'latency_ms': interleave(singles, rounds=rounds),
    'throughput_ms': interleave(batches, rounds=rounds),
  }
  found = {}
  for name, model in models.items():
    ratios = {kind: _ratio(seconds[name], seconds[baseline]) for kind, seconds in times.items()}
    found[name] = Cost(
      params=count.count_params(count.abstract_variables(model, experiment.image_shape)),
      macs=count.count_macs(model, experiment.image_shape),
      train_batch=experiment.config.train.batch_size,
      eval_batch=eval_batch,
      peak_mb=peaks[name],
      compile_seconds=compiling[name],
      **ratios,
    )
  return found


def _training_step(
  experiment: Experiment, pipeline: Pipeline, state: TrainState
) -> tuple[Callable[[], object], float, float]:
  """A function that makes one training step, its peak memory in 10^6 bytes, and compile seconds."""
  key = jax.device_put(jax.random.key(1), experiment.replicated)
  with program_cache.bypassed():
    began = time.perf_counter()
    compiled = compile_step(experiment, pipeline, state, pipeline.abstract_batch(), key)
    seconds = time.perf_counter() - began
  with contextlib.closing(pipeline.batches()) as stream:
    inputs = next(stream)
  states = [state]

  def call() -> dict[str, jax.Array]:
    states[0], metrics = compiled(states[0], pipeline.constants, inputs, key)
    return metrics

  return call, peak_bytes(compiled) / 1e6, seconds


def _forward(experiment: Experiment, variables: Variables, batch_size: int) -> Callable[[], object]:
  """A function that computes the outputs for one batch."""
  images = jax.random.normal(jax.random.key(1), (batch_size, *experiment.image_shape))
  apply = jax.jit(lambda variables, images: experiment.model.apply(variables, images, train=False))
  return lambda: apply(variables, images)


def _ratio(seconds: np.ndarray, baseline: np.ndarray) -> Ratio:
  low, middle, high = ratio(seconds, baseline)
  return Ratio(float(np.median(seconds)) * 1e3, middle, low, high)
