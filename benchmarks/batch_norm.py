"""Batch normalization: error against float64 and time of three formulas, forward and backward.

    python benchmarks/batch_norm.py

`shifted` is this project's: one pass over the differences from the mean of the first example.
`one_pass` is E[x^2] - E[x]^2, as Flax computes it by default, and `two_pass` subtracts the mean
first (`use_fast_variance=False` in Flax). All three have this project's closed-form gradient. The
error is the largest one of the output, in standard deviations, where the data's mean lies `shift`
standard deviations from zero. The time is that of a training step of ResNet-20 with each formula,
the three timed in turn. The table also goes to benchmarks/results, in a CSV whose name holds the
conditions.
"""

from attn_flax.training import allocator

if __name__ == '__main__':
  allocator.keep_freed_pages()  # Before the first thread starts.

import functools

import jax
import jax.numpy as jnp
import numpy as np
import random_step
from absl import app, flags, logging
from jax import lax
from tables import write_csv

from attn_flax import create_model
from attn_flax.costs.table import format_table
from attn_flax.costs.timing import interleave, ratio
from attn_flax.layers import norm

_BATCH = flags.DEFINE_integer('batch_size', 64, 'Images per step.')
_ROUNDS = flags.DEFINE_integer('rounds', 40, 'Timed steps of each.')
_OUT = flags.DEFINE_string('out', 'benchmarks/results', 'Folder of the CSV; empty: none.')
_SHIFTS = (0, 1e2, 1e4)
_EPSILON = 1e-5
_SIZE = 32


def _plain(x, scale, bias, epsilon, *, two_pass):
  """The forward pass with pivot 0, in the form that `norm` differentiates."""
  axes = tuple(range(x.ndim - 1))
  x32 = x.astype(jnp.float32)
  mean = x32.mean(axes)
  if two_pass:
    var = jnp.square(x32 - mean).mean(axes)
  else:
    var = jnp.maximum(jnp.square(x32).mean(axes) - jnp.square(mean), 0.0)
  inverse = lax.rsqrt(var + epsilon)
  y = ((x32 - mean) * (inverse * scale) + bias).astype(x.dtype)
  return (y, mean, var), (x, scale, jnp.zeros_like(mean), mean, inverse)


def _formula(forward):
  """A function of (x, scale, bias, epsilon) with the gradient of `norm`."""

  @functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
  def normalize(x, scale, bias, epsilon):
    return forward(x, scale, bias, epsilon)[0]

  normalize.defvjp(forward, norm._batch_normalize_bwd)
  return normalize


FORMULAS = {
  'one_pass': _formula(functools.partial(_plain, two_pass=False)),
  'two_pass': _formula(functools.partial(_plain, two_pass=True)),
  'shifted': norm._batch_normalize,
}


def error(formula, shift: float) -> float:
  """The largest error of the output for data of deviation 1 and this mean."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(shift, 1.0, (_BATCH.value, 16, 16, 16)), jnp.float32)
  exact = np.asarray(x, np.float64)  # What the formula is given, without its rounding.
  exact -= exact.mean((0, 1, 2))
  exact /= np.sqrt(exact.var((0, 1, 2)) + _EPSILON)
  y, _, _ = jax.jit(formula, static_argnums=3)(x, jnp.ones(16), jnp.zeros(16), _EPSILON)
  return float(np.abs(np.asarray(y, np.float64) - exact).max())


def training_step(formula):
  """A call that trains ResNet-20 once, with a formula in place of this project's."""
  step, arguments = random_step.make(
    create_model('resnet20', num_classes=10), _BATCH.value, _SIZE, 10
  )
  own, norm._batch_normalize = norm._batch_normalize, formula
  try:
    return random_step.compiled(step, arguments)[0]
  finally:
    norm._batch_normalize = own


def main(argv):
  """Measures every formula and prints the table."""
  del argv
  logging.set_verbosity(logging.ERROR)
  calls = {name: training_step(formula) for name, formula in FORMULAS.items()}
  seconds = interleave(calls, rounds=_ROUNDS.value)
  rows = []
  for name, formula in FORMULAS.items():
    low, median, high = ratio(seconds[name], seconds['one_pass'])
    rows.append(
      {
        'formula': name,
        **{f'error_at_shift_{shift:g}': f'{error(formula, shift):.2g}' for shift in _SHIFTS},
        'step_ms': round(float(np.median(seconds[name])) * 1e3, 1),
        'time_vs_one_pass': round(median, 3),
        'quartiles': f'{low:.3f}..{high:.3f}',
      }
    )
  print(format_table(rows))
  write_csv(_OUT.value, f'batch_norm-resnet20-b{_BATCH.value}-{_SIZE}px-float32', rows)


if __name__ == '__main__':
  app.run(main)
