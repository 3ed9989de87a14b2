"""How the fields of a config are read from a command line, and which of them may be none.

ml_collections knows only the types of the fields; the built-in configs say which may be none.
"""

import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from attn_flax.commands.typed import Number, Switch, Words, is_none
from attn_flax.errors import UserError, shown

# These may be none, whatever their default: the data then decides them.
_OPEN = ('train.batch_size', 'train.epochs')
_OF_MECHANISM = re.compile(
  r'((?:base\.)?model\.attention|variants\.[^.]+)\.(conv|branch|block|stage)\.\w+'
)


def register() -> None:
  """Makes the parsers of `typed` read the values of `--config.<field>`."""
  config_flags.register_flag_parser_for_type(bool, Switch())
  for kind in (int, float):
    config_flags.register_flag_parser_for_type(kind, Number(kind))
  config_flags.register_flag_parser_for_type(tuple, Words())


def settle_nones(
  config: ConfigDict,
  given: dict[str, Any],
  defaults: ConfigDict,
  mechanisms: Mapping[str, Mapping[str, object]],
) -> None:
  """Sets fields to None that a command line sets to none, if they may be none.

  Args:
    config: the config, with the fields that the command line sets.
    given: these fields, with their values; the text 'none' is replaced by None here, too.
    defaults: the built-in config of the same kind: fields that are None there may be none.
    mechanisms: the fields of the built-in mechanisms with their defaults, likewise.

  Raises:
    UserError: a field is set to none that needs a value.
  """
  for field, value in given.items():
    # For a field that is a tuple, none is read as a tuple that holds it.
    if not is_none(value[0] if isinstance(value, tuple) and len(value) == 1 else value):
      continue
    if _OF_MECHANISM.fullmatch(field):
      entry, _, name = field.rpartition('.')
      fields = mechanisms.get(config_path.get_value(f'{entry}.name', config), {})
      usual = fields.get(name, 1 if name == 'every' else None)
    elif field.removeprefix('base.') in _OPEN:
      usual = None
    else:
      usual = _default(field, defaults)
    if usual is None:
      given[field] = None
      config_path.set_value(field, config, None)
    elif not isinstance(value, str):
      raise UserError(f'--config.{field} cannot be none; its default is {shown(usual)}')


def _default(field: str, defaults: ConfigDict) -> object:
  """The default of a field; None also for one that the built-in config does not have."""
  found: object = defaults
  for part in field.split('.'):
    found = found.get(part) if isinstance(found, ConfigDict) else None
  return found
