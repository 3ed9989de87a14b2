"""The command line: `python main.py --config=configs/eca.py`; see README.md and `--help`."""

import sys

from attn_flax.commands.command_line import run
from attn_flax.commands.entry import main

__all__ = ['main', 'run']

if __name__ == '__main__':
  sys.exit(main())
