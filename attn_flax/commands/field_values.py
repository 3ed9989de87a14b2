"""How the fields of a config are read from a command line, and none where it has a meaning.

ml_collections knows a field by its type alone; the built-in configs know which can be none.
"""

import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from attn_flax.commands.typed import Number, Switch, Words, is_none
from attn_flax.errors import UserError, shown

# What is none there is decided by the data.
_OPEN = ('train.batch_size', 'train.epochs')
_OF_MECHANISM = re.compile(
  r'((?:base\.)?model\.attention|variants\.[^.]+)\.(conv|branch|block|stage)\.\w+'
)


def register() -> None:
  """Has `--config.<field>` read its values so."""
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
  """Makes none what a command line has set to none, and refuses it where it means nothing.

  Args:
    config: the config, with what the command line sets.
    given: the fields that it sets, with their values; texts become None here.
    defaults: the built-in config like it: what is none there may be none.
    mechanisms: the fields of the built-in mechanisms, likewise.

  Raises:
    UserError: for none in a field that needs a value.
  """
  for field, value in given.items():
    # A tuple is made of what is read for it.
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
