"""Memory and time of the implementations of attention between pixels, forward and backward.

    python benchmarks/attention.py

Dimensions are those of attention-augmented convolution: 8 heads of 20 key and 4 value dimensions,
with relative positions, batch 8. The implementations are timed in turn; memory is the compiler's
own count of temporaries. The table is printed and written to benchmarks/results, as a CSV whose
name holds the conditions.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from tables import write_csv

from attn_flax.attention import products
from attn_flax.costs.table import format_table
from attn_flax.costs.timing import interleave, ratio

_SIDES = flags.DEFINE_list('sides', '14,28', 'Sides of the square feature maps in pixels.')
_BATCH = flags.DEFINE_integer('batch_size', 8, 'Images per call.')
_ROUNDS = flags.DEFINE_integer('rounds', 10, 'Timed calls of each implementation.')
_OUT = flags.DEFINE_string(
  'out', 'benchmarks/results', 'Folder of the CSV; empty: do not write it.'
)
_HEADS, _KEY_DIM, _VALUE_DIM = 8, 20, 4


def _call(side, implementation):
  """A call that computes a value and its gradient, compiled, and the bytes of its temporaries."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  shape = (_BATCH.value, _HEADS, side * side)
  q, k, v = normal(*shape, _KEY_DIM), normal(*shape, _KEY_DIM), normal(*shape, _VALUE_DIM)
  tables = products.Relative(*(normal(2 * side - 1, _KEY_DIM) for _ in range(2)))
  weight = normal(*shape, _VALUE_DIM)

  def loss(q, k, v, tables):
    y = products.attend(q, k, v, (side, side), relative=tables, implementation=implementation)
    return (y * weight).sum()

  step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
  compiled = step.lower(q, k, v, tables).compile()
  return lambda: compiled(q, k, v, tables), compiled.memory_analysis().temp_size_in_bytes


def main(argv):
  """Times every implementation at every size, prints the table and writes it."""
  del argv
  logging.set_verbosity(logging.ERROR)
  rows = []
  for side in map(int, _SIDES.value):
    calls, temporary = {}, {}
    for implementation in ('direct', 'blocks', 'fused'):
      calls[implementation], temporary[implementation] = _call(side, implementation)
    seconds = interleave(calls, rounds=_ROUNDS.value)
    for implementation in calls:
      lower, median, upper = ratio(seconds[implementation], seconds['direct'])
      rows.append(
        {
          'map': f'{side}x{side}',
          'implementation': implementation,
          'temporary_mb': round(temporary[implementation] / 1e6, 1),
          'memory_vs_direct': round(temporary[implementation] / temporary['direct'], 3),
          'call_ms': round(float(np.median(seconds[implementation])) * 1e3, 1),
          'time_vs_direct': round(median, 3),
          'quartiles': f'{lower:.3f}..{upper:.3f}',
        }
      )
  print(format_table(rows))
  write_csv(_OUT.value, f'attention-b{_BATCH.value}-8heads-float32', rows)


if __name__ == '__main__':
  app.run(main)
