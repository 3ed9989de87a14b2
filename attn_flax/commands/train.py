"""Trains a network, by `--mode=train`."""

import json

import jax
from absl import flags

from attn_flax.commands import streams
from attn_flax.commands.workdir import workdir
from attn_flax.errors import UserError
from attn_flax.training.loop import train
from attn_flax.training.run_folder import load_config


def run(values: flags.FlagValues) -> None:
  """Trains, or goes on, and prints the result."""
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
    if jax.process_index() == 0:
      print(json.dumps(result, indent=2))
