"""The run folder and the output folder of a command."""

import pathlib

from absl import flags
from ml_collections import config_flags

from attn_flax.errors import UserError
from attn_flax.training import run_folder


def workdir(values: flags.FlagValues) -> pathlib.Path:
  """The run folder: `--workdir`, or else one that only commands with the same config share.

  Raises:
    UserError: neither a folder nor a config is given.
  """
  if values.workdir:
    return pathlib.Path(values.workdir)
  if values.config is None:
    raise UserError('neither --workdir nor --config is given; name a run folder or a config')
  path, _, argument = config_flags.get_config_filename(values['config']).partition(':')
  overrides = config_flags.get_override_values(values['config'])
  return run_folder.default_workdir(path, argument, overrides, is_study='variants' in values.config)


def output_folder(values: flags.FlagValues) -> pathlib.Path | None:
  """Where a command writes its results; None: into the run folder."""
  return pathlib.Path(values.output) if values.output else None
