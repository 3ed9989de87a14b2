"""Attention between pixels by map size: memory and time of each implementation; AA-ResNet-50."""

import numpy as np
from attention_calls import gradient_call
from part import Part
from throughput import ours

from attn_flax.costs.timing import interleave

_IMPLEMENTATIONS = ('blocks', 'fused', 'direct')


def maps(part: Part) -> None:
  """A row per map size, dtype and implementation."""
  batch = 2 if part.small else 32
  for side in (8,) if part.small else (14, 28, 32, 56):
    for dtype in ('float32',) if part.small else ('bfloat16', 'float32'):
      for implementation in _IMPLEMENTATIONS:
        what = f'{implementation}, {side}x{side}, batch {batch}, {dtype}'
        with part.trying(what, needs=3) as has_time:
          if has_time:
            call, temporary = gradient_call(side, implementation, batch, dtype)
            seconds = interleave({'call': call}, rounds=2 if part.small else 10)['call']
            part.add(
              what=what, temporary_mb=temporary / 1e6, call_ms=float(np.median(seconds)) * 1e3
            )


def whole_network(part: Part) -> None:
  """Memory and time of the augmented ResNet-50 at batch 128."""
  name, batch, side = ('resnet20', 2, 32) if part.small else ('resnet50', 128, 224)
  what = f'{name}, aa, batch {batch}, {side}x{side}, bfloat16'
  with part.trying(what, needs=5 if part.small else 40) as has_time:
    if has_time:
      training, _, costs = ours(name, 'aa', batch, side, 'bfloat16')
      seconds = interleave({'step': training}, rounds=2 if part.small else 5)['step']
      row = {'peak_mb': costs['peak_bytes'] / 1e6, 'step_ms': float(np.median(seconds)) * 1e3}
      part.add(what=what, **row)


def main() -> None:
  """Measures as much as there is time for."""
  part = Part(__doc__)
  whole_network(part)
  maps(part)


if __name__ == '__main__':
  main()
