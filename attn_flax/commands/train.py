"""Trains a network or resumes a run, by `--mode=train`."""

from absl import flags

from attn_flax.commands import streams
from attn_flax.commands.closing import closing
from attn_flax.commands.workdir import workdir
from attn_flax.data import FOLDER
from attn_flax.errors import UserError
from attn_flax.tasks.names import find_task
from attn_flax.training.distributed import processes
from attn_flax.training.loop import train
from attn_flax.training.run_folder import load_config


def run(values: flags.FlagValues) -> None:
  """Trains or resumes a run, and prints its scores and where its files are."""
  config = values.config
  if config is None and not values.workdir:
    raise UserError('--mode=train needs a config; try --config=eca')
  if config is not None and 'variants' in config:
    raise UserError('this config is a study of many runs; add --mode=compare')
  folder = workdir(values)
  # Without a config, the run in the folder is resumed with its own.
  config = load_config(folder) if config is None else config
  with streams.tolerant():  # All that is printed is also in the run folder.
    result = train(config, folder, restart=values.restart)
    if processes.is_first():
      images = config.data.dir if config.data.name == FOLDER else None
      print(closing(result, find_task(config.task), folder, images), flush=True)
