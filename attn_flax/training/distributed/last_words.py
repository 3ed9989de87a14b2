"""Passes on the stderr of a process, and turns the C++ log of a lost peer into one line.

This is a program of its own, which imports nothing of the package. When another process of the run
has died, JAX aborts this one from a C++ thread, with a stack trace; Python code in the aborted
process could not prevent that.
"""

import re
import sys

_NOISE = re.compile(rb'[IW]\d{4} \d\d:\d\d:\d\d')
# The threads of Gloo mix their lines.
_GLOO = re.compile(rb'.*(\[Gloo\]|peer ranks)')
_REST_OF_GLOO = re.compile(rb'[\d\s]*$')
_FATAL = re.compile(
  rb'[EF]\d{4} \d\d:\d\d:\d\d.*(coordination|preemption|client\.h)|terminate called'
)
_OWN = (b'error: ', b'stopped', b'stopping')


def lost(lines: list[bytes]) -> str:
  """Names the processes that have ended, as far as lines of the log say."""
  text = b''.join(lines).decode(errors='replace')
  if found := re.search(r'stopped sending heartbeats\):\s+((?:\d+\s+)+)', text):
    numbers = sorted(set(found[1].split()), key=int)
    name = 'processes' if len(numbers) > 1 else 'process'
    return f'{name} {", ".join(numbers)}'
  if 'leader' in text:
    return 'process 0'
  return 'another process'


def main() -> None:
  """Copies stdin to stderr line by line."""
  last: list[bytes] = []
  in_gloo = False
  for line in sys.stdin.buffer:
    in_gloo = bool(_GLOO.match(line) or (in_gloo and _REST_OF_GLOO.match(line)))
    if in_gloo:
      continue
    if last or _FATAL.match(line):
      last.append(line)
      if not line.startswith(_OWN):
        continue
    if not _NOISE.match(line):
      sys.stderr.buffer.write(line)
      sys.stderr.buffer.flush()
  if any(re.match(rb'F\d{4} |terminate called', line) for line in last):
    name = lost(last)
    verb = 'have' if name.startswith('processes') else 'has'
    print(
      f'error: {name} of this run {verb} ended, and so does this one; start all of them again to '
      'go on from the last checkpoint',
      file=sys.stderr,
    )


if __name__ == '__main__':
  main()
