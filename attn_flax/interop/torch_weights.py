"""PyTorch weights of residual networks, with and without attention, as Flax variables.

Reads the namings of torchvision, timm (`resnet*`, `resnext*`, `wide_resnet*`, `seresnet*`,
`seresnext*`, `ecaresnet*`, their ResNet-D forms, `legacy_seresnet*`), Jongchan/attention-module
(plain, CBAM, BAM) and BangguWu/ECANet; architecture and mechanism follow from names and shapes.
"""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import numpy as np

from attn_flax.costs.count import abstract_variables
from attn_flax.errors import UserError, check_type, shown
from attn_flax.interop.torch_architecture import StateDict, canonical, infer
from attn_flax.layers.types import Variables
from attn_flax.models.placement import Fields, Placement
from attn_flax.models.resnet import ResNet

# PyTorch module -> module of this library; the first rule that matches a whole name is used.
_Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]
_RULES: _Rules = (
  (r'conv1', 'stem_conv'),
  (r'conv1\.0', 'stem_conv1'),
  (r'conv1\.1', 'stem_norm1'),
  (r'conv1\.3', 'stem_conv2'),
  (r'conv1\.4', 'stem_norm2'),
  (r'conv1\.6', 'stem_conv3'),
  (r'bn1', 'stem_norm'),
  (r'fc', 'head'),
  (r'bam(\d+)\.(.+)', lambda m: _nested(f'stage{m[1]}_stage_attention', _BAM_RULES, m[2])),
  (r'layer(\d+)\.(\d+)\.(.+)', lambda m: _nested(_block(m), _BLOCK_RULES, m[3])),
)
# Modules inside a block.
_BLOCK_RULES: _Rules = (
  (r'conv(\d)', r'conv\1'),
  (r'bn(\d)', r'norm\1'),
  (r'downsample\.conv', 'shortcut_conv'),
  (r'downsample\.norm', 'shortcut_norm'),
  (r'se\.fc1', 'branch_attention/channel/reduce'),
  (r'se\.fc2', 'branch_attention/channel/expand'),
  (r'(se|eca)\.conv', 'branch_attention/channel/conv'),
  (r'cbam\.ChannelGate\.mlp\.1', 'branch_attention/channel/reduce'),
  (r'cbam\.ChannelGate\.mlp\.3', 'branch_attention/channel/expand'),
  (r'cbam\.SpatialGate\.spatial\.conv', 'branch_attention/spatial/conv'),
  (r'cbam\.SpatialGate\.spatial\.bn', 'branch_attention/spatial/norm'),
)


# Modules inside a BAM, between the stages.
_BAM_RULES: _Rules = (
  (r'channel_att\.gate_c\.gate_c_fc_0', 'channel/reduce'),
  (r'channel_att\.gate_c\.gate_c_bn_1', 'channel/norm'),
  (r'channel_att\.gate_c\.gate_c_fc_final', 'channel/expand'),
  (r'spatial_att\.gate_s\.gate_s_conv_reduce0', 'spatial/reduce'),
  (r'spatial_att\.gate_s\.gate_s_bn_reduce0', 'spatial/reduce_norm'),
  # PyTorch counts from 0, this library from 1.
  (r'spatial_att\.gate_s\.gate_s_conv_di_(\d+)', lambda m: f'spatial/conv{int(m[1]) + 1}'),
  (r'spatial_att\.gate_s\.gate_s_bn_di_(\d+)', lambda m: f'spatial/norm{int(m[1]) + 1}'),
  (r'spatial_att\.gate_s\.gate_s_conv_final', 'spatial/expand'),
)


def _block(match: re.Match) -> str:
  """PyTorch counts blocks from 0, this library from 1."""
  return f'stage{match[1]}_block{int(match[2]) + 1}'


def _nested(prefix: str, rules: _Rules, name: str) -> str:
  inner = _renamed(rules, name)
  return f'{prefix}/{inner}' if inner else ''


def _renamed(rules: _Rules, name: str) -> str:
  """The module here, or '' for a name that no rule knows."""
  for pattern, target in rules:
    if match := re.fullmatch(pattern, name):
      return target(match) if callable(target) else match.expand(target)
  return ''


def from_torch(
  source: str | pathlib.Path | Mapping[str, object],
  *,
  attention_kwargs: Fields | None = None,
  **fields: Any,
) -> tuple[ResNet, Variables]:
  """A network and its variables from PyTorch weights.

  Example:
    >>> model, variables = from_torch('eca_resnet50.pth.tar')
    >>> logits = model.apply(variables, images, train=False)

  Args:
    source: a file (.pth, .pth.tar, .pt, .bin: these need torch; .safetensors; .npz), or a state
      dict of arrays.
    attention_kwargs: fields of the mechanism that leave no trace in the weights, such as CBAM's
      `pools` or BAM's `dilation`, where they are not the released ones.
    **fields: likewise fields of the network, such as `stride_in` or `max_pool`.

  Returns:
    The model, and `{'params', 'batch_stats'}`. Its logits are PyTorch's for images in [N, H, W, C].

  Raises:
    UserError: for a file that cannot be read, an unknown architecture, and weights that are
      missing, unexpected or of another shape, each by name.
  """
  kwargs = {} if attention_kwargs is None else attention_kwargs
  check_type('attention_kwargs', kwargs, Mapping, 'fields by name, such as {"dilation": 4}')
  weights = canonical(read_state_dict(source))
  try:
    model = infer(weights, dict(kwargs), fields)
    return model, convert(weights.arrays, model)
  except UserError as error:
    given = [f'{name}={shown(value)}' for name, value in {**kwargs, **fields}.items()]
    if not given:
      raise
    raise UserError(f'{error}; given were {", ".join(given)}') from None


def read_state_dict(source: str | pathlib.Path | Mapping[str, object]) -> dict[str, np.ndarray]:
  """The arrays of a state dict, by name, from a file or a mapping.

  Raises:
    UserError: for a file that is missing, damaged or of an unknown kind.
  """
  if isinstance(source, Mapping):
    content: object = source
  elif not isinstance(source, str | pathlib.Path):
    content = source
  else:
    path = pathlib.Path(source)
    if not path.is_file():
      raise UserError(f'{path} is not a file; name a PyTorch, safetensors or npz file')
    content = _read_file(path)
  if not isinstance(content, Mapping):
    raise UserError(f'a {type(content).__name__} holds no weights; give a state dict')
  for key in ('state_dict', 'model', 'state_dict_ema'):
    if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
      content = content[key]
  arrays = {}
  for name, value in content.items() if isinstance(content, Mapping) else ():
    value = value.detach().cpu().float().numpy() if hasattr(value, 'detach') else value
    if not isinstance(value, np.ndarray | np.generic | jax.Array):
      raise UserError(f'{name!r} is a {type(value).__name__}, not an array; give a state dict')
    arrays[str(name)] = np.asarray(value)
  if not arrays:
    raise UserError('no weights found; give a state dict, or a file that holds one')
  return arrays


def _read_file(path: pathlib.Path) -> object:
  try:
    if path.suffix == '.npz':
      with np.load(path) as file:
        return dict(file)
    if path.suffix == '.safetensors':
      from safetensors.numpy import load_file

      return load_file(path)
    if path.name.endswith(('.pth', '.pt', '.bin', '.tar')):
      import torch

      return torch.load(path, map_location='cpu', weights_only=True)
  except ImportError as error:
    raise UserError(
      f'{path} takes the package {error.name!r} to read; install it (pip install {error.name}), or '
      'save the weights as .npz'
    ) from None
  except Exception as error:  # Each reader has its own types for a damaged file.
    reason = ' '.join(str(error).split())[:200]
    if 'weights_only' in str(error):  # PyTorch advises to load it in a way that may run code.
      reason = 'it holds more than tensors; save its state dict'
    raise UserError(f'{path} cannot be read ({type(error).__name__}: {reason})') from None
  raise UserError(
    f'{path} is of an unknown kind; allowed: .pth, .pth.tar, .pt, .bin, .safetensors, .npz'
  )


def convert(state: StateDict, model: ResNet) -> Variables:
  """Variables of a model from a state dict in canonical names.

  Raises:
    UserError: naming every weight that is missing, unexpected or of another shape.
  """
  wanted = abstract_variables(model, (model.stride, model.stride, 3))
  expected = flax.traverse_util.flatten_dict(dict(wanted), sep='/')
  found: dict[str, np.ndarray] = {}
  unexpected, misshapen = [], []
  for name, value in state.items():
    path = _path(name, state)
    if path not in expected or path in found:
      unexpected.append(name)
      continue
    array = _to_flax(value, expected[path].shape)
    if array.shape != expected[path].shape:
      misshapen.append(f'{name} {value.shape} for {path} {expected[path].shape}')
    found[path] = array.astype(np.float32)
  missing = [path for path in expected if path not in found]
  problems = {'missing': missing, 'unexpected': unexpected, 'of another shape': misshapen}
  if any(problems.values()):
    listed = '; '.join(f'{what}: {", ".join(names)}' for what, names in problems.items() if names)
    raise UserError(f'the weights do not fit {describe(model)}: {listed}')
  arrays = {path: jax.numpy.asarray(found[path]) for path in expected}
  return flax.traverse_util.unflatten_dict(arrays, sep='/')


def describe(model: ResNet) -> str:
  """A network in a few words."""
  parts = [f'a {model.block} ResNet with depths {model.depths} and widths {model.widths}']
  parts += [_describe_placement(placement) for placement in model.attention]
  return ', '.join(parts)


def _describe_placement(placement: Placement) -> str:
  return f'{placement.module.__name__} at {placement.where!r} of stages {placement.stages}'


def _path(name: str, state: StateDict) -> str:
  """Where a weight goes: `params/...` or `batch_stats/...`."""
  module, _, leaf = name.rpartition('.')
  target = _renamed(_RULES, module)
  is_norm = f'{module}.running_mean' in state
  if target == 'stem_norm' and 'conv1.6.weight' in state:
    target = 'stem_norm3'
  leaves = {
    'running_mean': 'mean',
    'running_var': 'var',
    'bias': 'bias',
    'weight': 'scale' if is_norm else 'kernel',
  }
  if leaf not in leaves:
    return ''
  leaf = leaves[leaf]
  collection = 'batch_stats' if leaf in ('mean', 'var') else 'params'
  return f'{collection}/{target}/{leaf}'


def _to_flax(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """A weight in the layout of Flax: kernels have their input and output channels last."""
  if value.ndim == 4 and len(shape) == 2 and value.shape[2:] == (1, 1):
    value = value[:, :, 0, 0]  # A 1x1 convolution that is a dense layer here.
  if value.ndim < 2:
    return value
  return value.transpose(*range(2, value.ndim), 1, 0)
