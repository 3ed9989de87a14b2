"""The configuration files of single runs, and the names of those of studies."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
STUDIES = ('compare', 'placement', 'ratio')
FILES = sorted(p for p in (ROOT / 'configs').glob('*.py') if p.stem not in ('base', *STUDIES))
