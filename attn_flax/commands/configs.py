"""Where the built-in configs are, and what their fields mean.

In a checkout they lie in `configs/` beside the package; a wheel carries them inside of it. Config
files import each other as `configs.<name>`, also a user's own that begin with one of these.
"""

import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
import types

from ml_collections import ConfigDict

from attn_flax.errors import check_choice


def folder() -> pathlib.Path:
  """The folder of the built-in configs."""
  package = pathlib.Path(__file__).parents[1]
  inside = package / 'configs'
  return inside if inside.is_dir() else package.parent / 'configs'


def provide() -> None:
  """Makes `configs` importable, wherever the command runs; a checkout's own comes first."""
  if importlib.util.find_spec('configs') and importlib.util.find_spec('configs.base'):
    return
  package = types.ModuleType('configs', 'The built-in configs of attn_flax.')
  package.__path__ = [str(folder())]
  sys.modules['configs'] = package


def find(name: str) -> str:
  """The path of a config: itself, or that of a built-in one for a bare name such as 'eca'."""
  if pathlib.Path(name).exists() or not re.fullmatch(r'\w+', name):
    return name
  names = [path.stem for path in folder().glob('*.py')]
  check_choice('config', name, names)
  return str(folder() / f'{name}.py')


def load(name: str) -> ConfigDict:
  """A built-in config by its name, without an argument."""
  return importlib.import_module(f'configs.{name}').get_config()


def describe(config: ConfigDict) -> str:
  """The fields of a config, each with its value and the comment above it in the config files."""
  comments = {**_comments(folder() / 'presets' / 'study.py'), **_comments(folder() / 'base.py')}
  lines = []
  for path, value in _flat(config):
    comment = comments.get(path.removeprefix('base.')) or _of_mechanism(path, config)
    lines.append(f'--config.{path}={value}')
    lines += [f'    {comment}'] if comment else []
  return '\n'.join(lines)


def _flat(config: ConfigDict, prefix: str = '') -> list[tuple[str, object]]:
  """Dotted paths of all fields, with their values."""
  found: list[tuple[str, object]] = []
  for name in config:
    value = config[name]
    if isinstance(value, ConfigDict):
      found += _flat(value, f'{prefix}{name}.')
    else:
      found.append((f'{prefix}{name}', value))
  return found


def _comments(path: pathlib.Path) -> dict[str, str]:
  """The comments above the lines `config.<field> = ...` of a file, by field."""
  found: dict[str, str] = {}
  comment: list[str] = []
  for line in path.read_text(encoding='utf-8').splitlines():
    if text := re.fullmatch(r'\s*# (.*)', line):
      comment.append(text[1])
      continue
    if field := re.match(r'\s*config\.([\w.]+) = ', line):
      found.setdefault(field[1], ' '.join(comment))  # Set again further on, without a comment.
    comment = []
  return found


def _of_mechanism(path: str, config: ConfigDict) -> str:
  """What a field of an attention entry means, by the docstring of its class."""
  entry, _, field = path.rpartition('.')
  if '.attention.' not in f'.{path}' or 'variants.' in path:
    return ''
  usual = {
    'name': 'The mechanism.',
    'every': 'It acts in every so many blocks of a stage.',
    'stages': "Stages where it acts, from 1; none: the mechanism's own.",
    'start': "'paper', or 'identity' to begin as the network without it.",
  }
  if field in usual:
    return usual[field]
  from attn_flax.attention.names import find_attention

  holder: ConfigDict = config
  for part in entry.split('.'):
    holder = holder[part]
  text = inspect.getdoc(find_attention(holder.name)) or ''
  if about := re.search(rf'^  {field}: (.*(?:\n    .*)*)', text, re.M):
    return ' '.join(about[1].split())
  return ''
