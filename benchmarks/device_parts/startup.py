"""Seconds to the first training step with an empty and a full cache of compiled programs."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

from part import Part

_CODE = """
import sys
sys.argv = sys.argv[:1]
sys.path.insert(0, {folder!r})
from throughput import ours
import jax
training, _, _ = ours({name!r}, {attention!r}, {batch}, {side}, 'bfloat16')
jax.block_until_ready(training())
"""


def first_step(name: str, attention: str | None, batch: int, side: int, cache: str) -> float:
  """Seconds from the start of a process to the end of its first training step."""
  folder = str(pathlib.Path(__file__).parent)
  code = _CODE.format(folder=folder, name=name, attention=attention, batch=batch, side=side)
  environment = {
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  began = time.monotonic()
  subprocess.run([sys.executable, '-c', code], env=os.environ | environment, check=True)
  return time.monotonic() - began


def main() -> None:
  """A row per network."""
  part = Part(__doc__)
  cases = [('resnet50', None, 256, 224), ('resnet50', 'cbam', 256, 224)]
  for name, attention, batch, side in [('resnet20', None, 4, 32)] if part.small else cases:
    what = f'{name}, {attention or "none"}, batch {batch}, {side}x{side}'
    with part.trying(what, needs=10 if part.small else 60) as has_time:
      if has_time:
        with tempfile.TemporaryDirectory() as cache:
          cold = first_step(name, attention, batch, side, cache)
          part.add(what=what, cold_s=cold, warm_s=first_step(name, attention, batch, side, cache))


if __name__ == '__main__':
  main()
