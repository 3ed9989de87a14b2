"""Writes the golden values of whole PyTorch classifiers: logits under weights rebuilt by a rule.

Run by hand, in an environment of its own with numpy, torch, and timm with its requirements but
torchvision, and Pillow (the tests need none of it, they only read the files)::

  python tests/golden/make_networks.py --attention-module=<checkout> --ecanet=<checkout>

`--attention-module` is a checkout of github.com/Jongchan/attention-module and `--ecanet` one of
github.com/BangguWu/ECANet; each is needed only for its own networks. `--only=NAME` (repeatable)
makes some of the networks, `--check` compares with the files there are instead of writing them.
The files in the repository come from torch 2.13.0 on a CPU, one thread, and timm 1.0.31; four of
them (timm-seresnet50, cbam_repo-imagenet-resnet18-CBAM, cbam_repo-cifar100-resnet18-BAM and
eca_repo-resnet18) are older than this script, which gives the same logits to 3e-7.

Each `networks/<name>.npz` holds

* `keys`: JSON list of [name, shape], the state dict in its order;
* `params`: the number of trainable parameters;
* `size`: height and width of the input;
* `logits`: [2, classes], float32, evaluation mode.

Weights and input are not stored: `rule.make_weight` and `rule.make_input` make them. The rule
takes a name as it is stored, so that in the networks with `module` in their name, whose keys
carry the `module.` of `torch.nn.DataParallel`, the prefix is part of it.

What is done to the released code to run it, all of it at import time and in memory:

* timm imports torchvision, of which the classifiers here use nothing. Where torchvision is not
  installed, empty modules stand in for it.
* `bam.py` of attention-module reads a name `gate_activation` that it never defines, to store it
  in an attribute that it never reads. The name is set to None, which does the same as deleting
  the line.
* `model_resnet.py` of attention-module builds every `CBAM` with its default arguments. For the
  networks `...-CBAM-no_spatial` and `...-CBAM-avg_max_lse` the class is replaced by itself with
  `no_spatial` or `pool_types` set.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from rule import FOLDER, make_input, make_weight

_TOLERANCE = 1e-5  # of --check, relative to the largest logit
_APART = 1e-3  # least difference between the logits of the two images, relative to the largest


class _StandIn(type):
  """Class of the classes that stand in for those of torchvision: any attribute is a string."""

  def __getattr__(cls, name: str) -> str:
    if name.startswith('__'):
      raise AttributeError(name)
    return f'{cls.__name__}.{name}'


class _StandInModule(types.ModuleType):
  """A module with a class of every name."""

  def __getattr__(self, name: str) -> type:
    if name.startswith('__'):
      raise AttributeError(name)
    value = _StandIn(name, (), {})
    setattr(self, name, value)
    return value


class _StandInImporter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Imports an empty module for torchvision and for each module in it."""

  def find_spec(
    self, fullname: str, path: Any = None, target: types.ModuleType | None = None
  ) -> importlib.machinery.ModuleSpec | None:
    if fullname.partition('.')[0] != 'torchvision':
      return None
    return importlib.util.spec_from_loader(fullname, self, is_package=True)

  def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
    return _StandInModule(spec.name)

  def exec_module(self, module: types.ModuleType) -> None:
    pass


def _import_from(folder: pathlib.Path, package: str, module: str) -> types.ModuleType:
  """Imports one module of a folder, as part of a package that runs no `__init__.py`."""
  if not (folder / f'{module}.py').is_file():
    raise FileNotFoundError(f'{folder / module}.py: not a checkout of the right repository')
  if package not in sys.modules:
    parent = types.ModuleType(package)
    parent.__path__ = [str(folder)]
    sys.modules[package] = parent
  return importlib.import_module(f'{package}.{module}')


class Sources:
  """The code that builds the networks, each part imported when it is first asked for.

  Attributes:
    attention_module: Checkout of Jongchan/attention-module, or None.
    ecanet: Checkout of BangguWu/ECANet, or None.
  """

  def __init__(self, attention_module: pathlib.Path | None, ecanet: pathlib.Path | None):
    self.attention_module = attention_module
    self.ecanet = ecanet

  @functools.cached_property
  def timm(self) -> types.ModuleType:
    """The package timm."""
    if importlib.util.find_spec('torchvision') is None:
      sys.meta_path.append(_StandInImporter())
    return importlib.import_module('timm')

  @functools.cached_property
  def cbam_resnet(self) -> types.ModuleType:
    """`MODELS/model_resnet.py` of attention-module."""
    if self.attention_module is None:
      raise ValueError('this network needs --attention-module')
    load = functools.partial(_import_from, self.attention_module / 'MODELS', 'attention_module')
    load('bam').gate_activation = None
    return load('model_resnet')

  @functools.cached_property
  def eca_resnet(self) -> types.ModuleType:
    """`models/eca_resnet.py` of ECANet."""
    if self.ecanet is None:
      raise ValueError('this network needs --ecanet')
    return _import_from(self.ecanet / 'models', 'ecanet', 'eca_resnet')


@dataclasses.dataclass(frozen=True)
class Network:
  """A network to run.

  Attributes:
    name: Name of its file.
    size: Height and width of its input.
    classes: Number of its classes.
    build: Makes it, given the code to make it with and the number of classes.
  """

  name: str
  size: int
  classes: int
  build: Callable[[Sources, int], torch.nn.Module]


def _timm(model: str, size: int, classes: int = 10, suffix: str = '') -> Network:
  """Returns a network of timm."""

  def build(sources: Sources, classes: int) -> torch.nn.Module:
    return sources.timm.create_model(model, pretrained=False, num_classes=classes)

  return Network(f'timm-{model}{suffix}', size, classes, build)


@contextlib.contextmanager
def _cbam_arguments(module: types.ModuleType, **kwargs: Any) -> Iterator[None]:
  """Has a module build its `CBAM` with other arguments than the default ones."""
  cbam = module.CBAM
  module.CBAM = functools.partial(cbam, **kwargs)
  try:
    yield
  finally:
    module.CBAM = cbam


def _cbam_repo(
  kind: str,
  depth: int,
  attention: str | None,
  size: int,
  classes: int = 10,
  *,
  parallel: bool = False,
  suffix: str = '',
  **cbam: Any,
) -> Network:
  """Returns a network of attention-module.

  Args:
    kind: Data set by the repository's name for it: ImageNet, CIFAR10 or CIFAR100.
    depth: Depth of the ResNet.
    attention: CBAM, BAM or None.
    size: Height and width of the input. The repository pools a fixed window before the
      classifier, 7x7 or (CIFAR) 4x4: from 193 to 224, and from 25 to 32, that is the whole map.
    classes: Number of classes.
    parallel: Whether the keys begin with the `module.` of `torch.nn.DataParallel`.
    suffix: End of the name.
    **cbam: Arguments of every `CBAM`.
  """

  def build(sources: Sources, classes: int) -> torch.nn.Module:
    module = sources.cbam_resnet
    with _cbam_arguments(module, **cbam):
      net = module.ResidualNet(kind, depth, classes, attention)
    if parallel:
      net = torch.nn.Sequential(collections.OrderedDict(module=net))
    return net

  parts = ['module'] * parallel + [kind.lower(), f'resnet{depth}'] + [attention] * bool(attention)
  return Network(f'cbam_repo-{"-".join(parts)}{suffix}', size, classes, build)


def _eca_repo(depth: int, kernels: str, size: int, classes: int = 10) -> Network:
  """Returns a network of ECANet; `kernels` has the kernel size of each stage, a digit each."""

  def build(sources: Sources, classes: int) -> torch.nn.Module:
    make = getattr(sources.eca_resnet, f'eca_resnet{depth}')
    return make(k_size=[int(k) for k in kernels], num_classes=classes)

  suffix = '' if kernels == '3333' else f'-k{kernels}'
  return Network(f'eca_repo-resnet{depth}{suffix}', size, classes, build)


# With an input of 64 every map from the stem to the last stage is even; with one of 75 the first
# one of them is even and three of the rest are odd (38, 19, 10, 5, 3), where it matters how a
# window that crosses the border is padded and averaged. The legacy networks pool their stem
# without padding: 73 gives them an odd map to pool (37 to 18, where with padding it is 19), 64 an
# even one (32 to 16, the last window crossing the border).
NETWORKS = (
  _timm('resnet18', 64),
  _timm('resnet50', 75),
  _timm('resnet101', 64),
  _timm('resnet50c', 75),
  _timm('resnet50s', 64),
  _timm('resnet18d', 75),
  _timm('resnet50d', 64),
  _timm('resnet10t', 64),
  _timm('resnet26t', 75),
  _timm('wide_resnet50_2', 64),
  _timm('resnext50_32x4d', 64),
  _timm('resnext50d_32x4d', 75),
  _timm('seresnet18', 64),
  _timm('seresnet50', 224, 1000),
  _timm('seresnet50t', 75),
  _timm('seresnext50_32x4d', 75),
  _timm('seresnext26d_32x4d', 64),
  _timm('seresnext26t_32x4d', 75),
  _timm('legacy_seresnet18', 73),
  _timm('legacy_seresnet18', 64, suffix='-even'),
  _timm('legacy_seresnet50', 73),
  _timm('legacy_seresnet50', 64, suffix='-even'),
  _timm('legacy_seresnext50_32x4d', 73),
  _timm('ecaresnet26t', 64),
  _timm('ecaresnet50t', 75),
  _timm('ecaresnet50d', 75),
  _timm('ecaresnetlight', 75),
  _timm('ecaresnext26t_32x4d', 64),
  _cbam_repo('ImageNet', 18, None, 193),
  _cbam_repo('ImageNet', 18, 'CBAM', 224, 1000),
  _cbam_repo('ImageNet', 50, 'CBAM', 224),
  _cbam_repo('ImageNet', 18, 'BAM', 224),
  _cbam_repo('ImageNet', 50, 'BAM', 197),
  _cbam_repo('CIFAR10', 18, None, 29),
  _cbam_repo('CIFAR100', 18, 'CBAM', 32, 100),
  _cbam_repo('CIFAR100', 18, 'BAM', 32, 100),
  _cbam_repo('CIFAR10', 50, 'CBAM', 29),
  _cbam_repo('CIFAR10', 50, 'BAM', 32),
  _cbam_repo('CIFAR10', 18, 'CBAM', 32, suffix='-no_spatial', no_spatial=True),
  _cbam_repo('CIFAR10', 18, 'CBAM', 32, suffix='-avg_max_lse', pool_types=['avg', 'max', 'lse']),
  _cbam_repo('CIFAR10', 18, None, 32, parallel=True),
  _cbam_repo('CIFAR10', 18, 'CBAM', 32, parallel=True),
  _cbam_repo('CIFAR10', 18, 'BAM', 32, parallel=True),
  _eca_repo(18, '3333', 224, 1000),
  _eca_repo(18, '3577', 64),
  _eca_repo(34, '3357', 75),
  _eca_repo(50, '3557', 64),
)


def run(network: Network, sources: Sources) -> dict[str, np.ndarray]:
  """Builds a network, gives it its weights and runs it.

  Args:
    network: The network.
    sources: The code to build it with.

  Returns:
    What its file holds.

  Raises:
    ValueError: The logits are of no use in a test: not finite, or those of the two images alike.
  """
  model = network.build(sources, network.classes)
  state = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  model.load_state_dict({k: torch.from_numpy(make_weight(k, s)) for k, s in state.items()})
  model.eval()
  with torch.inference_mode():
    logits = model(torch.from_numpy(make_input(network.size))).numpy()
  if not np.isfinite(logits).all():
    raise ValueError(f'{network.name}: logits that are not finite')
  if np.abs(logits[0] - logits[1]).max() < _APART * np.abs(logits).max():
    raise ValueError(f'{network.name}: the same logits for both images')
  return {
    'keys': np.array(json.dumps([[k, list(s)] for k, s in state.items()])),
    'params': np.array(sum(p.numel() for p in model.parameters() if p.requires_grad)),
    'size': np.array(network.size),
    'logits': logits,
  }


def check(values: dict[str, np.ndarray], path: pathlib.Path) -> float:
  """Compares what `run` returned with a file.

  Args:
    values: What `run` returned.
    path: The file.

  Returns:
    The largest difference between the logits, relative to the largest logit.

  Raises:
    ValueError: Something differs: anything but the logits at all, or these beyond rounding.
  """
  with np.load(path, allow_pickle=False) as file:
    stored = {k: file[k] for k in file.files}
  for key in ('params', 'size'):
    if stored[key] != values[key]:
      raise ValueError(f'{path.name}: {key} is {values[key]}, was {stored[key]}')
  if json.loads(str(stored['keys'])) != json.loads(str(values['keys'])):
    raise ValueError(f'{path.name}: other keys or shapes than before')
  error = float(np.abs(stored['logits'] - values['logits']).max() / np.abs(stored['logits']).max())
  if not error <= _TOLERANCE:
    raise ValueError(f'{path.name}: logits {error:.1e} off')
  return error


def main() -> None:
  """Makes the files, or compares with them."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--attention-module', type=pathlib.Path, help='checkout of the repository')
  parser.add_argument('--ecanet', type=pathlib.Path, help='checkout of the repository')
  parser.add_argument('--only', action='append', metavar='NAME', help='only this network')
  parser.add_argument('--check', action='store_true', help='compare instead of writing')
  parser.add_argument('--folder', type=pathlib.Path, default=FOLDER, help='where the files are')
  args = parser.parse_args()
  names = [n.name for n in NETWORKS]
  if unknown := set(args.only or ()) - set(names):
    parser.error(f'no such network: {", ".join(sorted(unknown))}; there are {", ".join(names)}')

  torch.set_num_threads(1)
  sources = Sources(args.attention_module, args.ecanet)
  for network in NETWORKS:
    if args.only and network.name not in args.only:
      continue
    values = run(network, sources)
    path = args.folder / f'{network.name}.npz'
    if args.check:
      result = f'{check(values, path):.1e} off'
    else:
      np.savez_compressed(path, **values)
      result = f'{path.stat().st_size} bytes'
    print(
      f'{network.name}: size {network.size}, {network.classes} classes, {values["params"]} '
      f'parameters, largest logit {np.abs(values["logits"]).max():.3g}, '
      f'rows apart {np.abs(np.subtract(*values["logits"])).max():.3g}, {result}',
      flush=True,
    )


if __name__ == '__main__':
  main()
