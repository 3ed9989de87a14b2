"""What a process keeps of the memory that it frees."""

import subprocess
import sys

import pytest

CODE = """
import os, pathlib
from attn_flax.training import allocator

if not allocator.keep_freed_pages():
  print('no glibc')
  raise SystemExit

import numpy as np

def resident_mb():
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 1e6

before = resident_mb()
arrays = [np.ones(2**20) for _ in range(40)]  # 8 MB each.
del arrays
print(resident_mb() - before, allocator.give_back(), resident_mb() - before)
"""


def test_what_is_freed_is_kept_until_it_is_given_back():
  run = subprocess.run([sys.executable, '-c', CODE], capture_output=True, text=True, check=True)
  if run.stdout == 'no glibc\n':
    pytest.skip('the C library is not glibc')
  kept, gave, left = run.stdout.split()
  assert float(kept) > 300 and gave == 'True' and float(left) < 50
