"""What a run says before its first update: what it trains, on what, and where its results go."""

import pathlib

from attn_flax.attention.names import attention_name
from attn_flax.training.artifacts import Json
from attn_flax.training.experiment import Experiment


def opening(experiment: Experiment, costs: Json, start: int, workdir: pathlib.Path) -> str:
  """Three lines.

  Args:
    experiment: the run.
    costs: `params` and `macs` of its network.
    start: the updates that it goes on from.
    workdir: its folder.
  """
  config, dataset = experiment.config, experiment.dataset
  gates = [f'{attention_name(one.module)} ({one.where})' for one in experiment.model.attention]
  attention = f'with {" and ".join(gates)}' if gates else 'without attention'
  counts = ', '.join(f'{len(split):,} {name}' for name, split in dataset.splits.items())
  height, width, _ = experiment.image_shape
  devices = experiment.mesh.devices.ravel()
  plural = '' if devices.size == 1 else 's'
  kind = devices[0].device_kind
  kind = 'CPU' if kind == 'cpu' else kind
  begins = f'from update {start:,}, ' if start else ''
  return '\n'.join(
    (
      f'network: {config.model.name} {attention}, {costs["params"]:,} parameters, '
      f'{costs["macs"] / 1e6:,.1f} million multiply-adds an image',
      f'data: {config.data.name}, {counts} images of {height}x{width} pixels, '
      f'{len(dataset.class_names):,} classes',
      f'run: {begins}{experiment.updates:,} updates of {config.train.batch_size:,} images on '
      f'{devices.size} {kind} device{plural}, into {workdir}; compiling the update',
    )
  )
