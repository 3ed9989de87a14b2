"""The command line: `python main.py --config=configs/eca.py`; see README.md and `--help`."""

import signal
import sys

if __name__ == '__main__':
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while packages load prints no traceback.
  from attn_flax.commands.entry import main

  sys.exit(main())
