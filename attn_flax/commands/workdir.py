"""The run folder and the output folder of a command."""

import hashlib
import json
import pathlib

from absl import flags
from ml_collections import config_flags

from attn_flax.errors import UserError

# Fields of a study that select runs or affect only its report; they change no run.
_OF_NO_RUN = ('baseline', 'only', 'report', 'seeds', 'select')


def workdir(values: flags.FlagValues) -> pathlib.Path:
  """The run folder: `--workdir`, or else one that only commands with the same config share.

  Without --workdir it is such as `runs/eca-resnet18`, with a hash where the command sets fields. A
  study keeps its folder with other seeds or pictures.

  Raises:
    UserError: neither a folder nor a config is given.
  """
  if values.workdir:
    return pathlib.Path(values.workdir)
  if values.config is None:
    raise UserError('neither --workdir nor --config is given; name a run folder or a config')
  path, _, argument = config_flags.get_config_filename(values['config']).partition(':')
  overrides = config_flags.get_override_values(values['config'])
  if 'variants' in values.config:
    overrides = {k: v for k, v in overrides.items() if k.partition('.')[0] not in _OF_NO_RUN}
  parts = [pathlib.Path(path).stem, *argument.replace('=', '-').replace(',', ' ').split()]
  if overrides:
    text = json.dumps(overrides, sort_keys=True, default=str)
    parts.append(hashlib.sha256(text.encode()).hexdigest()[:8])
  return pathlib.Path('runs') / '-'.join(parts)


def output_folder(values: flags.FlagValues) -> pathlib.Path | None:
  """Where a command writes its results; None: into the run folder."""
  return pathlib.Path(values.output) if values.output else None
