"""The lines that a run prints before its first update."""

import pathlib

from attn_flax.attention.names import attention_name
from attn_flax.training.artifacts import Json
from attn_flax.training.experiment import Experiment


def opening(experiment: Experiment, costs: Json, start: int, workdir: pathlib.Path) -> str:
  """Three lines: the network, the data, and the updates, devices and folder of a run.

  Args:
    experiment: the run.
    costs: `params` and `macs` of its network.
    start: the update that the run continues from; 0 for a new run.
    workdir: the run folder.
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
      f'{costs["macs"] / 1e6:,.1f} million multiply-adds per image',
      f'data: {config.data.name}, {counts} images of {height}x{width} pixels, '
      f'{len(dataset.class_names):,} classes',
      f'run: {begins}{experiment.updates:,} updates of {config.train.batch_size:,} images on '
      f'{devices.size} {kind} device{plural}, into {workdir}; compiling the update',
    )
  )
