"""The command line: `python main.py --config=configs/eca.py`; see README.md and `--help`."""

import signal
import sys

if __name__ == '__main__':  # Ctrl-C while the packages load prints no traceback.
  signal.signal(signal.SIGINT, signal.SIG_DFL)

from attn_flax.commands.command_line import run  # noqa: E402
from attn_flax.commands.entry import main  # noqa: E402

__all__ = ['main', 'run']

if __name__ == '__main__':
  sys.exit(main())
