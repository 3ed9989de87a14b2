"""Writes the weights of a network of one block, under torchvision's names, to an .npz file."""

import pathlib
import sys

import numpy as np


def state(classes: int) -> dict[str, np.ndarray]:
  """The state dict of the network, with a head of `classes` logits; weights are ones."""
  shapes = {'conv1.weight': (8, 3, 3, 3), 'fc.weight': (classes, 8), 'fc.bias': (classes,)}
  for name in ('conv1', 'conv2'):
    shapes[f'layer1.0.{name}.weight'] = (8, 8, 3, 3)
  for name in ('bn1', 'layer1.0.bn1', 'layer1.0.bn2'):
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{name}.{leaf}'] = (8,)
  return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


if __name__ == '__main__':
  np.savez(pathlib.Path(sys.argv[1]), **state(classes=10))
