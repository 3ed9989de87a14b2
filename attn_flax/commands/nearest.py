"""Errors of mistyped command lines, which suggest what to type instead."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from ml_collections import ConfigDict

from attn_flax.commands.field_paths import MAPPING, flat
from attn_flax.errors import UserError, listed, nearest
from attn_flax.models.placement import PLACES

_MOST_HINTS = 3
# Names that other programs use for fields of the config.
_ALSO_CALLED = {
  'arch': 'model',
  'bs': 'batch_size',
  'data_dir': 'dir',
  'dataset': 'data',
  'learning_rate': 'lr_per_256',
  'wd': 'weight_decay',
}
# The same for modes.
_MODES_ALSO_CALLED = {
  'convert': 'import',
  'fit': 'train',
  'infer': 'predict',
  'report': 'compare',
  'study': 'compare',
  'test': 'evaluate',
}


def of_flag(
  name: str, value: str, own: Iterable[str], config: ConfigDict, configs: Collection[str]
) -> UserError:
  """The error of an unknown flag.

  Args:
    name: its name, without dashes.
    value: the value that it is set to; '' for none.
    own: the flags of the mode.
    config: a config whose fields may be meant, too.
    configs: the names of the built-in configs.
  """
  likely = _flags_like(name, value, own, config)
  if not likely and value in configs:
    likely = [f'--config={value}']
  fix = f'did you mean {_either(likely)}?' if likely else '--help shows all flags'
  return UserError(f'unknown flag --{name}; {fix}')


def of_word(
  word: str,
  modes: Collection[str],
  own: Iterable[str],
  config: ConfigDict,
  configs: Collection[str],
) -> UserError:
  """The error of a word without dashes, of which the command line takes none.

  Args:
    word: the word.
    modes: the modes.
    own: the flags of the mode.
    config: a config whose fields may be meant, too.
    configs: the names of the built-in configs.
  """
  name, is_set, value = word.partition('=')
  config_name, colon, words = word.partition(':')
  if name == 'help' or name.startswith('config.'):
    likely = [f'--{word}']
  elif is_set:
    likely = _flags_like(name, value, own, config)
  elif mode := _mode_like(word, modes):
    likely = [f'--mode={mode}']
  else:
    likely = [f'--config={near}{colon}{words}' for near in nearest(config_name, configs)]
  fix = f'did you mean {_either(likely)}?' if likely else 'see --help'
  return UserError(f'unknown argument {word!r}; flags begin with --; {fix}')


def of_choice(flag: str, value: str, choices: Sequence[str]) -> UserError:
  """The error of a value of a flag that is not one of a few words, which it lists in order."""
  near = _mode_like(value, choices) if flag == 'mode' else ''.join(nearest(value, choices))
  hint = f' did you mean --{flag}={near}?' if near else ''
  return UserError(f'--{flag}={value} is unknown;{hint} allowed: {listed(choices)}')


def _mode_like(word: str, modes: Collection[str]) -> str:
  """The mode that a word most likely means; '' if none."""
  return _MODES_ALSO_CALLED.get(word.casefold()) or ''.join(nearest(word, modes))


def _flags_like(name: str, value: str, own: Iterable[str], config: ConfigDict) -> list[str]:
  """The flags and fields of a config, set to a value, that a name most likely means."""
  given = f'={value}' if value else ''
  typed = name.replace('-', '_')
  fields = [f'--config.{path}{given}' for path in _fields_like(config, typed)]
  if fields and typed in fields[0].partition('=')[0].split('.'):
    return fields
  return [f'--{flag}{given}' for flag in nearest(typed, own, cutoff=0.8)] or fields


# The fields of the built-in mechanisms by name.
Mechanisms = Mapping[str, Collection[str]]


def check_known(config: ConfigDict, fields: Mapping[str, str], mechanisms: Mechanisms) -> None:
  """Raises `UserError` for a field that a command line sets and that a config does not have.

  Args:
    config: the config.
    fields: the values that are set, as text, by path; '' for none.
    mechanisms: the fields of the built-in mechanisms by name.
  """
  for path, value in fields.items():
    given = f'={value}' if value else ''
    holder: object = config
    parts = path.split('.')
    for i, part in enumerate(parts):
      before = '.'.join(parts[:i])
      if holder is None or isinstance(holder, int | float | str | tuple):
        raise UserError(f'--config.{path}: {before} has no fields; set --config.{before} itself')
      if not isinstance(holder, ConfigDict):
        return  # A config file of the user's may hold anything.
      name, bracket, _ = part.partition('[')
      if name not in holder:
        raise UserError(_about_unknown(config, holder, before, path, name, given, mechanisms))
      holder = holder[name]
      if bracket:
        whole = f'--config.{before}.{name}'.replace('..', '.')
        if holder is None or isinstance(holder, tuple):
          raise UserError(f'--config.{path} sets a part of a value; set the whole {whole}')
        return
    if isinstance(holder, ConfigDict) and not value.lstrip().startswith('{'):
      inside = f'set a field of it: {listed(list(holder))}'
      if MAPPING.fullmatch(path):
        inside = 'choose a config with the attention that you want, such as --config=se'
      fix = f'did you mean --config.{path}.name{given}?' if 'name' in holder else inside
      raise UserError(f'--config.{path} is a section of fields; {fix}')


def _about_unknown(
  config: ConfigDict,
  holder: ConfigDict,
  section: str,
  path: str,
  name: str,
  given: str,
  mechanisms: Mechanisms,
) -> str:
  """The message about a path whose part `name` does not exist in a section, `holder`."""

  def instead(other: str) -> str:
    start = f'{section}.' if section else ''
    return f'{start}{other}{path.removeprefix(start + name)}'

  is_last = path.rpartition('.')[2] == name
  alike = [key for key in holder if is_last or isinstance(holder[key], ConfigDict)]
  near = nearest(name, alike)
  if MAPPING.fullmatch(section) and name in PLACES:
    text = f'--config.{path}: this config has no attention at {name}'
    paths = [instead(place) for place in holder]
    if not paths:
      return f'{text}; choose one that has, such as --config=se'
  elif MAPPING.fullmatch(section.rpartition('.')[0]) and not near:
    mechanism = str(holder.get('name'))
    place = section.rpartition('.')[2]
    return f'--config.{path}: {_about_other(mechanism, place, name, mechanisms)}'
  else:
    text = f'unknown field --config.{path}'
    paths = [instead(near[0])] if near else _fields_like(config, path)
  likely = [f'--config.{found}{given}' for found in paths]
  all_fields = '--mode=train --help --config=<config> lists all fields'
  return f'{text}; ' + (f'did you mean {_either(likely)}?' if likely else all_fields)


def _about_other(mechanism: str, place: str, field: str, mechanisms: Mechanisms) -> str:
  """The message about a field that the mechanism at a place does not have."""
  text = f'{mechanism}, the attention at {place}, has no {field}'
  if mechanism in mechanisms:
    text += f'; its fields are {listed(mechanisms[mechanism])}'
  others = [name for name, fields in mechanisms.items() if field in fields]
  return text + (f'; {field} is a field of {listed(others)}' if others else '')


def _fields_like(config: ConfigDict, typed: str) -> list[str]:
  """The fields of a config that a path or a name most likely means."""
  paths: dict[str, list[str]] = {}  # By the names that a user may call them by.
  for path in flat(config):
    section, _, name = path.rpartition('.')
    paths.setdefault(name, []).append(path)
    if name == 'name':  # A user may write `model` for `model.name`.
      paths.setdefault(section.rpartition('.')[2], []).append(path)
  _, _, name = typed.rpartition('.')
  name = _ALSO_CALLED.get(name, name)
  names = [name] if name in paths else nearest(name, paths, _MOST_HINTS, cutoff=0.7)
  found = list(dict.fromkeys(path for other in names for path in paths[other]))
  section = typed.partition('.')[0] if '.' in typed else 'train'
  found.sort(key=lambda path: (path.count('.'), section not in path.split('.')))
  whole = [path for path in found if f'.{path}'.endswith(f'.{typed}')]
  return [typed] if typed in whole else (whole or found)[:_MOST_HINTS]


def _either(commands: Sequence[str]) -> str:
  return ' or '.join(commands)
