"""Memory and time of the implementations of attention between pixels, forward and backward.

    python benchmarks/attention.py

Dimensions are those of attention-augmented convolution: 8 heads of 20 key and 4 value dimensions,
with relative positions, batch 8. The implementations are timed in turn; memory is the compiler's
own count of temporaries. The table is printed and written to benchmarks/results, as a CSV whose
name holds the conditions.
"""

import attention_calls
import numpy as np
from absl import app, flags, logging
from tables import write_csv

from attn_flax.costs.table import format_table
from attn_flax.costs.timing import interleave, ratio

_SIDES = flags.DEFINE_list('sides', '14,28', 'Sides of the square feature maps in pixels.')
_BATCH = flags.DEFINE_integer('batch_size', 8, 'Images per call.')
_ROUNDS = flags.DEFINE_integer('rounds', 10, 'Timed calls of each implementation.')
_OUT = flags.DEFINE_string(
  'out', 'benchmarks/results', 'Folder of the CSV; empty: do not write it.'
)


def main(argv):
  """Times every implementation at every size, prints the table and writes it."""
  del argv
  logging.set_verbosity(logging.ERROR)
  rows = []
  for side in map(int, _SIDES.value):
    calls, temporary = {}, {}
    for implementation in ('direct', 'blocks', 'fused'):
      calls[implementation], temporary[implementation] = attention_calls.gradient_call(
        side, implementation, _BATCH.value
      )
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
