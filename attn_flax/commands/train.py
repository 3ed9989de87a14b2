"""Trains a network, by `--mode=train`."""

from absl import flags

from attn_flax.commands import streams
from attn_flax.commands.closing import closing
from attn_flax.commands.workdir import workdir
from attn_flax.data import FOLDER
from attn_flax.errors import UserError
from attn_flax.tasks.names import find_task
from attn_flax.training import processes
from attn_flax.training.loop import train
from attn_flax.training.run_folder import load_config


def run(values: flags.FlagValues) -> None:
  """Trains, or goes on, and says how good the network is and where everything lies."""
  config = values.config
  if config is None and not values.workdir:
    raise UserError('--mode=train needs a config; try --config=eca')
  if config is not None and 'variants' in config:
    raise UserError('this config is a study of many runs; add --mode=compare')
  folder = workdir(values)
  # A run folder alone goes on with its own config.
  config = load_config(folder) if config is None else config
  with streams.tolerant():  # What is printed is also in the run folder.
    result = train(config, folder, restart=values.restart)
    if processes.is_first():
      images = config.data.dir if config.data.name == FOLDER else None
      print(closing(result, find_task(config.task), folder, images), flush=True)
