"""How the fields of a config are read from a command line, and which of them may be none.

ml_collections knows only the types of the fields; the built-in configs say which may be none.
"""

from collections.abc import Callable

from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from attn_flax.commands.field_paths import OF_ENTRY, value_at
from attn_flax.commands.typed import Number, Switch, Words, is_none
from attn_flax.errors import UserError, shown

# These may be none, whatever their default: the data then decides them.
_OPEN = ('train.batch_size', 'train.epochs')
# What none means in the fields that another value switches off.
_OFF: dict[str, float | tuple[()]] = {
  'augment.brightness': 0.0,
  'augment.contrast': 0.0,
  'augment.saturation': 0.0,
  'augment.hue': 0.0,
  'augment.grey': 0.0,
  'augment.cutout': 0,
  'augment.erasing': 0.0,
  'augment.mixup_alpha': 0.0,
  'augment.cutmix_alpha': 0.0,
  'augment.mix_probability': 0.0,
  'train.label_smoothing': 0.0,
  'optimizer.weight_decay': 0.0,
  'optimizer.warmup_epochs': 0.0,
  'optimizer.step_epochs': (),
}


def register() -> None:
  """Makes the parsers of `typed` read the values of `--config.<field>`."""
  config_flags.register_flag_parser_for_type(bool, Switch())
  for kind in (int, float):
    config_flags.register_flag_parser_for_type(kind, Number(kind))
  config_flags.register_flag_parser_for_type(tuple, Words())


def settle_nones(
  config: ConfigDict,
  given: dict[str, object],
  defaults: ConfigDict,
  attention: Callable[[str], ConfigDict],
) -> None:
  """Sets fields that a command line sets to none: to None, or to the value that switches them off.

  Args:
    config: the config, with the fields that the command line sets.
    given: these fields, with their values; the text 'none' is replaced here, too.
    defaults: the built-in config of the same kind: fields that are None there may be none.
    attention: makes the entry of a mechanism in the attention mapping, with its defaults, likewise.

  Raises:
    UserError: a field is set to none that needs a value, or is empty.
  """
  for field, value in given.items():
    if value == '':
      raise UserError(f'--config.{field} is empty; give a value, or leave it out')
    # For a field that is a tuple, none is read as a tuple that holds it.
    if not is_none(value[0] if isinstance(value, tuple) and len(value) == 1 else value):
      continue
    if OF_ENTRY.fullmatch(field):
      entry, _, name = field.rpartition('.')
      usual = attention(config_path.get_value(f'{entry}.name', config)).get(name)
    elif field.removeprefix('base.') in _OPEN:
      usual = None
    else:
      usual = value_at(defaults, field)
    off = _OFF.get(field.removeprefix('base.'))
    if usual is None or off is not None:
      given[field] = None if usual is None else off
      config_path.set_value(field, config, given[field])
    elif not isinstance(value, str):
      raise UserError(f'--config.{field} cannot be none; its default is {shown(usual)}')
