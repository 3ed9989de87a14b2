"""The cost of attention in training: a table with a row per mechanism, timed in turn.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --model=resnet50 --image_size=224 --batch_size=8 --rounds=5

Where torch is installed and the network is one of He's CIFAR networks, the same network in PyTorch
(channels last, eager) is timed in the same rounds. The table is printed and written to
benchmarks/results, as a CSV whose name holds the conditions.
"""

import importlib.util
import re
import time

from attn_flax.training import allocator

if __name__ == '__main__':
  allocator.keep_freed_pages()  # Before the first thread starts.

import numpy as np
import random_step
from absl import app, flags, logging
from tables import write_csv

from attn_flax import count_macs, count_params, create_model
from attn_flax.costs.table import format_table
from attn_flax.costs.timing import interleave, peak_bytes, ratio

_MODEL = flags.DEFINE_string('model', 'resnet20', 'Network, one of list_models().')
_ATTENTION = flags.DEFINE_list('attention', 'none,se,eca,cbam,bam', 'Mechanisms; first: baseline.')
_BATCH = flags.DEFINE_integer('batch_size', 64, 'Images per step.')
_SIZE = flags.DEFINE_integer('image_size', 32, 'Side of the images in pixels.')
_ROUNDS = flags.DEFINE_integer('rounds', 20, 'Timed steps of each mechanism.')
_RATIO = flags.DEFINE_integer('ratio', 4, 'Reduction ratio of SE, CBAM and BAM.')
_DTYPE = flags.DEFINE_string('dtype', 'float32', 'Compute dtype: float32 or bfloat16.')
_OUT = flags.DEFINE_string(
  'out', 'benchmarks/results', 'Folder of the CSV; empty: do not write it.'
)


def _fields(attention: str) -> dict:
  return {'ratio': _RATIO.value} if attention in ('se', 'cbam', 'bam') else {}


def _jax_step(attention: str):
  """A call that makes one training step, compiled, and its costs."""
  model = create_model(
    _MODEL.value,
    attention=None if attention == 'none' else attention,
    attention_kwargs=_fields(attention) or None,
    num_classes=10,
    dtype=_DTYPE.value,
  )
  step, arguments = random_step.make(model, _BATCH.value, _SIZE.value, 10)
  params = count_params({'params': arguments[0].params})  # Before the state is donated.
  began = time.perf_counter()
  call, program = random_step.compiled(step, arguments)
  return call, {
    'params': params,
    'macs': count_macs(model, (_SIZE.value, _SIZE.value, 3)),
    'compile_s': time.perf_counter() - began,
    'peak_mb': peak_bytes(program) / 1e6,
  }


def main(argv):
  """Times every mechanism, prints the table and writes it."""
  del argv
  logging.set_verbosity(logging.ERROR)
  calls, costs = {}, {}
  for attention in _ATTENTION.value:
    calls[attention], costs[attention] = _jax_step(attention)
  depth = re.fullmatch(r'resnet(20|32|44|56|110)', _MODEL.value)
  has_torch = importlib.util.find_spec('torch') is not None and depth is not None
  if has_torch:
    import torch_resnet

    for attention in _ATTENTION.value:
      calls[f'torch {attention}'], params = torch_resnet.training_step(
        int(depth[1]), attention, _RATIO.value, _BATCH.value, _SIZE.value
      )
      if params != costs[attention]['params']:
        raise ValueError(
          f'{attention} has {params} parameters in torch and {costs[attention]["params"]} in JAX, '
          'so they are not the same network'
        )
  seconds = interleave(calls, rounds=_ROUNDS.value)

  baseline = seconds[_ATTENTION.value[0]]
  rows = []
  for attention in _ATTENTION.value:
    own = seconds[attention]
    lower, median, upper = ratio(own, baseline)
    row = {
      'attention': attention,
      'params': costs[attention]['params'],
      'macs': costs[attention]['macs'],
      'step_ms': round(float(np.median(own)) * 1e3, 1),
      'images_per_second': round(_BATCH.value / float(np.median(own)), 1),
      'time_vs_baseline': round(median, 3),
      'quartiles': f'{lower:.3f}..{upper:.3f}',
      'peak_mb': round(costs[attention]['peak_mb'], 1),
      'compile_s': round(costs[attention]['compile_s'], 1),
    }
    if has_torch:
      other = seconds[f'torch {attention}']
      row['torch_step_ms'] = round(float(np.median(other)) * 1e3, 1)
      row['time_vs_torch'] = round(ratio(own, other)[1], 3)
    rows.append(row)
  print(format_table(rows))
  network = f'{_MODEL.value}-b{_BATCH.value}-{_SIZE.value}px-{_DTYPE.value}'
  write_csv(_OUT.value, f'train_step-{network}', rows)


if __name__ == '__main__':
  app.run(main)
