"""A PyTorch state dict, made without PyTorch."""

import numpy as np


def weights():
  """The state dict of a tiny network with squeeze-and-excitation, all ones."""
  shapes = {'conv1.weight': (8, 3, 3, 3), 'fc.weight': (10, 16), 'fc.bias': (10,)}
  norms = {'bn1': 8}
  for stage, (inputs, width) in enumerate(((8, 8), (8, 16)), start=1):
    block = f'layer{stage}.0'
    shapes[f'{block}.conv1.weight'] = (width, inputs, 3, 3)
    shapes[f'{block}.conv2.weight'] = (width, width, 3, 3)
    for layer, sizes in (('fc1', (width // 4, width)), ('fc2', (width, width // 4))):
      shapes[f'{block}.se.{layer}.weight'] = (*sizes, 1, 1)
      shapes[f'{block}.se.{layer}.bias'] = sizes[:1]
    norms |= {f'{block}.bn1': width, f'{block}.bn2': width}
    if inputs != width:
      shapes[f'{block}.downsample.0.weight'] = (width, inputs, 1, 1)
      norms[f'{block}.downsample.1'] = width
  for norm, width in norms.items():
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{norm}.{name}'] = (width,)
  return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
