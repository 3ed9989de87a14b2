"""Where the built-in configs are, and what their fields mean.

In a checkout they lie in `configs/` beside the package; a wheel carries them inside of it. Config
files import each other as `configs.<name>`, also a user's own that begin with one of these.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict

from attn_flax.errors import check_choice


def folder() -> pathlib.Path:
  """The folder of the built-in configs."""
  package = pathlib.Path(__file__).parents[1]
  inside = package / 'configs'
  return inside if inside.is_dir() else package.parent / 'configs'


def provide() -> None:
  """Makes `configs.<name>` the built-in configs, wherever the command runs.

  Files of a folder `configs` of the user's own are found behind them.
  """
  own = str(folder())
  spec = importlib.util.find_spec('configs')
  found = list(spec.submodule_search_locations or ()) if spec else []
  if found[:1] == [own]:
    return
  package = types.ModuleType('configs', 'The built-in configs of attn_flax.')
  package.__path__ = [own, *(path for path in found if path != own)]
  sys.modules['configs'] = package


def find(name: str) -> str:
  """The path of a config: itself, or that of a built-in one for a bare name such as 'eca'."""
  if pathlib.Path(name).exists() or not re.fullmatch(r'\w+', name):
    return name
  names = [path.stem for path in folder().glob('*.py')]
  check_choice('config', name, names)
  return str(folder() / f'{name}.py')


class ConfigParser(flags.ArgumentParser):
  """Parses `--config`; an entry whose mechanism the command line renames gets the new one's fields.

  So that `--config=se --config.model.attention.branch.name=cbam` works as a config with CBAM in the
  same place would. What the config chose itself, such as a ratio that suits a thin network, stays
  where the new mechanism has such a field.
  """

  def __init__(self, parser: flags.ArgumentParser, argv: Sequence[str]):
    """`parser` reads the file that is named, `argv` is the whole command line."""
    self._parser = parser
    self._argv = list(argv)

  def parse(self, argument: str) -> ConfigDict | None:
    """The config of a file."""
    config = self._parser.parse(argument)
    if isinstance(config, ConfigDict):
      for path, name in self._names():
        _rename(config, path, name)
    return config

  def flag_type(self) -> str:
    """See `ArgumentParser`."""
    return self._parser.flag_type()

  def _names(self) -> Iterator[tuple[str, str]]:
    """Fields `name` that the command line sets, by the path of what holds them."""
    for word, following in zip(self._argv, [*self._argv[1:], ''], strict=True):
      flag, given, value = word.partition('=')
      if match := re.fullmatch(r'--?config\.(.+)\.name', flag):
        yield match[1], value if given else following


# What an entry of an attention mapping holds beside its mechanism's own fields.
_PLACEMENT = ('name', 'every', 'stages', 'start')


def _rename(config: ConfigDict, path: str, name: str) -> None:
  """Replaces the entry of an attention mapping by one of another mechanism at the same place."""
  *parents, place = path.split('.')
  holder = config
  for part in parents:
    holder = holder.get(part) if isinstance(holder, ConfigDict) else None
  entry = holder.get(place) if isinstance(holder, ConfigDict) else None
  if not isinstance(entry, ConfigDict) or not set(_PLACEMENT) <= set(entry):
    return
  if entry.name == name:
    return
  from attn_flax.attention.names import find_attention
  from attn_flax.models.create import own_fields

  base = importlib.import_module('configs.base')
  usual = {}
  if name not in base.ATTENTION:
    defaults = {field: about.default for field, about in own_fields(find_attention(name)).items()}
    usual = {field: value for field, value in defaults.items() if value is not dataclasses.MISSING}
  renamed = base.attention(
    name, **usual, **{field: entry[field] for field in _PLACEMENT if field != 'name'}
  )
  before = base.ATTENTION.get(entry.name, {})
  for field in set(entry) & set(renamed) - set(_PLACEMENT):
    chosen = field in before and entry[field] != before[field]
    if chosen and type(entry[field]) is type(renamed[field]):
      renamed[field] = entry[field]
  with holder.unlocked():
    holder[place] = renamed


def load(name: str) -> ConfigDict:
  """A built-in config by its name, without an argument."""
  return importlib.import_module(f'configs.{name}').get_config()


def describe(config: ConfigDict) -> str:
  """The fields of a config, each with its value and the comment above it in the config files."""
  comments = {**_comments(folder() / 'presets' / 'study.py'), **_comments(folder() / 'base.py')}
  order = {field: number for number, field in enumerate(comments)}

  def rank(path: str) -> tuple[int, int]:
    """The place of a field, or of the nearest part that holds it, in the files."""
    field = path.rpartition('.')[2]
    within = _PLACEMENT.index(field) if field in _PLACEMENT else len(_PLACEMENT)
    while path and path not in order:
      path = path.rpartition('.')[0]
    return order.get(path, len(order)), within

  lines = []
  for path, value in sorted(_flat(config), key=lambda field: rank(field[0].removeprefix('base.'))):
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
