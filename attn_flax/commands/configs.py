"""Finds and loads the config that a command line names.

In a checkout the built-in configs are in `configs/` next to the package, in a wheel inside it.
Config files import each other as `configs.<name>`; a user's own files may import them, too.
"""

import importlib
import importlib.util
import pathlib
import re
import sys
import types
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from attn_flax.commands import field_values
from attn_flax.commands.field_paths import OF_ENTRY, value_at
from attn_flax.commands.nearest import check_known
from attn_flax.errors import UserError, listed, nearest, shown
from attn_flax.files import local_path
from attn_flax.models.create import PLACEMENT_FIELDS
from attn_flax.models.zoo import list_models
from attn_flax.training.artifacts import holds_run

# A word of a command line that sets a field.
_FIELD = re.compile(r'--?(?:no)?config\.([^=]*)(=?)')


@runtime_checkable
class _UnknownWord(Protocol):
  """`configs.presets.words.UnknownWordError`, whichever `configs` it comes from."""

  word: str
  known: Sequence[str]


def folder() -> pathlib.Path:
  """The folder of the built-in configs."""
  package = pathlib.Path(__file__).parents[1]
  inside = package / 'configs'
  return inside if inside.is_dir() else package.parent / 'configs'


def load(name: str, argument: str = '') -> ConfigDict:
  """A built-in config by its name; `argument` is the text after the colon on a command line."""
  return _built_in(name).get_config(argument)


def find(name: str) -> pathlib.Path:
  """The file of a config: a path, or the name of a built-in one such as 'eca'.

  Raises:
    UserError: there is no such config; the message suggests what to type.
  """
  path, built_in = local_path(name, '--config'), folder()
  if path.is_file():
    return path
  names = built_in_names()
  if name in names:
    return built_in / f'{name}.py'
  typed = {name: name for name in names}
  if path.parent.resolve() != built_in.resolve():
    typed |= {file.stem: str(file) for file in path.parent.glob('*.py')}
  word, comma, words = path.stem.partition(',')
  near = nearest(word, typed)
  if near and near[0] != word and _is_word(word):
    near = []
  likely = f'{typed[near[0]]}{":" * bool(comma)}{words}' if near else f'resnet:{path.stem}'
  if near or _is_word(path.stem):
    raise UserError(f'unknown config {shown(name)}; did you mean --config={likely}?')
  raise UserError(f'unknown config {shown(name)}; allowed: {listed(names)}, or a file')


def built_in_names() -> list[str]:
  """The names of the built-in configs."""
  return sorted(file.stem for file in folder().glob('*.py'))


def _is_word(text: str) -> bool:
  """Whether a text can stand after a config's colon, as a network or a dataset does."""
  try:
    load('base', text)
  except ValueError:
    return False
  return bool(text)


def overrides(argv: Sequence[str]) -> dict[str, str]:
  """The fields that a command line sets by `--config.<field>=<value>`; the last value counts."""
  found: dict[str, str] = {}
  for word, after in zip(argv, [*argv[1:], ''], strict=True):
    if match := _FIELD.match(word):
      found[match[1]] = word[match.end() :] if match[2] else after
  return found


def without_repeats(argv: Sequence[str]) -> list[str]:
  """A command line with the last setting of each field alone: ml_collections would join tuples."""
  last = {match[1]: place for place, word in enumerate(argv) if (match := _FIELD.match(word))}
  return [
    word
    for place, word in enumerate(argv)
    if not (match := _FIELD.match(word)) or not match[2] or last[match[1]] == place
  ]


def check_given(argv: Sequence[str]) -> None:
  """Raises `UserError` if a command line sets fields of a config that it does not name before.

  Fields of `data` may be set for a run that exists, whose own config is then used.
  """
  words = [word for word in argv if _FIELD.match(word) or re.match(r'--?config(=|$)', word)]
  if not words or not (first := _FIELD.match(words[0])):
    return
  if not all(map(_FIELD.match, words)):
    raise UserError(f'{words[0]} stands before --config; name the config first, then its fields')
  if (folder := _run_folder(argv)) is None:
    raise UserError(
      f'--config.{first[1]} needs a config whose field it sets, such as --config=eca; without one, '
      'only --mode=train and --mode=evaluate of a run that exists take fields, those of its data'
    )
  for field in overrides(words):
    if not field.startswith('data.'):
      raise UserError(
        f'--config.{field} needs a config whose field it sets, such as --config=eca; without one, '
        f'the config of the run in {folder} is used, of which only --config.data.<field> can be set'
      )


def _run_folder(argv: Sequence[str]) -> pathlib.Path | None:
  """The run folder of a command line whose mode can use the run's own config with other data."""
  given: dict[str, str] = {}
  for word, after in zip(argv, [*argv[1:], ''], strict=True):
    if match := re.fullmatch(r'--?(workdir|mode)(?:=(.*))?', word, re.DOTALL):
      given[match[1]] = after if match[2] is None else match[2]
  if given.get('mode', 'train') not in ('train', 'evaluate') or not given.get('workdir'):
    return None
  folder = local_path(given['workdir'], '--workdir')
  return folder if holds_run(folder) else None


def _of_run(argv: Sequence[str]) -> ConfigDict | None:
  """The config of the run whose data a command line sets without a config; None for others."""
  words = [word for word in argv if re.match(r'--?(no)?config[.=]|--?config$', word)]
  folder = _run_folder(argv) if words and all(map(_FIELD.match, words)) else None
  if folder is None:
    return None
  # Loads Optax and SciPy, for which other command lines need not wait.
  from attn_flax.training.run_folder import load_config

  config, typed = load_config(folder), load('base').data
  with typed.unlocked():  # Newer versions may have further fields.
    typed.update(config.data)
  config.data = typed
  check_known(config, overrides(argv), {})
  return config


def check_fields(values: flags.FlagValues, kept: str, why: str) -> None:
  """Raises `UserError` for a field that the command line sets and that the mode does not read.

  Args:
    values: the flags.
    kept: a regular expression of the fields that the mode reads.
    why: the end of the message, after '--config.<field> does nothing'.
  """
  given = values.config is not None
  for field in config_flags.get_override_values(values['config']) if given else ():
    if not re.fullmatch(kept, field):
      raise UserError(f'--config.{field} does nothing {why}')


def define(values: flags.FlagValues, text: str, argv: Sequence[str]) -> None:
  """Defines the flag `--config`, whose fields the rest of the command line may set.

  Args:
    values: where the flag goes.
    text: its help.
    argv: the command line.
  """
  field_values.register()
  if (own := _of_run(argv)) is not None:
    config_flags.DEFINE_config_dict('config', own, text, flag_values=values, sys_argv=list(argv))
    return
  config_flags.DEFINE_config_file('config', None, text, flag_values=values, sys_argv=list(argv))
  flag = values['config']
  flag.parser = _Parser(inner=flag.parser, fields=overrides(argv))


def settle(values: flags.FlagValues) -> None:
  """Sets fields to None that the command line sets to none; see `field_values.settle_nones`."""
  if values.config is not None:
    is_study = 'variants' in values.config
    field_values.settle_nones(
      values.config,
      config_flags.get_override_values(values['config']),
      load('compare' if is_study else 'base'),
      _built_in('base').attention,
    )


class _Parser(flags.ArgumentParser):
  """Loads a config by its path or name, before the command line sets its fields."""

  def __init__(self, inner: flags.ArgumentParser, fields: dict[str, str]):
    """`inner` runs the file at a path; `fields` are set afterwards."""
    self._inner = inner
    self._fields = fields

  def parse(self, argument: str) -> ConfigDict:
    local_path(argument, '--config')  # A URL has a colon, too.
    name, colon, words = argument.partition(':')
    if not name:
      raise UserError('--config is empty; name a config, such as eca, or a file')
    path = find(name)
    _provide(path)
    try:
      config = self._inner.parse(f'{path}{colon}{words}')
    except ValueError as error:
      unknown = error.__context__
      if not isinstance(unknown, _UnknownWord):
        raise
      word = unknown.word
      near = nearest(word, [*unknown.known, *list_models()]) if word else []
      if not near:
        raise
      raise UserError(
        f'unknown word {shown(word)} after the colon of the config; did you mean {near[0]!r}?'
      ) from None
    if isinstance(config, ConfigDict):
      _make_room(config, self._fields)
      check_known(config, self._fields, _built_in('presets.mechanisms').ATTENTION)
    return config


def _make_room(config: ConfigDict, fields: dict[str, str]) -> None:
  """Adds fields to the entries of attention mappings, so that the command line can set them.

  An entry that gets another name loses the fields of its former mechanism, and gets those of a
  built-in mechanism with their defaults. An entry of a user's own class gets the fields that are
  set; whether the class has them is checked when the network is built.
  """
  built_in = _built_in('presets.mechanisms').ATTENTION
  for match in filter(None, map(OF_ENTRY.fullmatch, fields)):
    where, place, field = match.groups()
    places, entry = value_at(config, where), value_at(config, f'{where}.{place}')
    if not isinstance(places, ConfigDict) or not isinstance(entry, ConfigDict):
      continue  # `check_known` raises the error.
    name = fields.get(f'{where}.{place}.name', entry.get('name'))
    if name != entry.get('name'):
      kept = {key: entry[key] for key in PLACEMENT_FIELDS if key in entry and key != 'name'}
      entry = _built_in('base').attention(name, **kept)
      with places.unlocked():
        places[place] = entry
    if name not in built_in and field not in entry:
      with entry.unlocked():
        entry[field] = placeholder(object)


def _built_in(name: str) -> types.ModuleType:
  """A built-in config file as a module."""
  _provide(folder() / 'base.py')
  return importlib.import_module(f'configs.{name}')


def _provide(path: pathlib.Path) -> None:
  """Sets where `import configs` looks for the files that the config at a path imports.

  First comes the folder `configs` that holds the config, so that built-in configs import each other
  whatever the working directory holds; for a config elsewhere, `configs` in the working directory.
  Then come the built-in configs, and folders `configs` on `sys.path`.
  """
  inside = path.resolve().parent
  own = inside if inside.name == 'configs' else pathlib.Path('configs').resolve()
  others = [pathlib.Path(entry, 'configs').resolve() for entry in sys.path]
  folders = [entry for entry in (own, folder().resolve(), *others) if entry.is_dir()]
  wanted = list(dict.fromkeys(map(str, folders)))
  if list(getattr(sys.modules.get('configs'), '__path__', ())) == wanted:
    return
  for name in [name for name in sys.modules if name.partition('.')[0] == 'configs']:
    del sys.modules[name]
  init = pathlib.Path(wanted[0], '__init__.py')
  spec = (
    importlib.util.spec_from_file_location('configs', init, submodule_search_locations=wanted)
    if init.is_file()
    else None
  )
  if spec is None or spec.loader is None:
    package = types.ModuleType('configs', 'Configs, those of attn_flax among them.')
    package.__path__ = wanted
    sys.modules['configs'] = package
  else:
    sys.modules['configs'] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
