"""PyTorch weights of residual networks, with and without attention, as Flax variables.

Reads the namings of torchvision, timm (`resnet*`, `resnext*`, `wide_resnet*`, `seresnet*`,
`seresnext*`, `ecaresnet*`, their ResNet-D forms, `legacy_seresnet*`, `legacy_seresnext*`),
kuangliu/pytorch-cifar, Jongchan/attention-module (plain, CBAM, BAM) and BangguWu/ECANet;
architecture and mechanism follow from names and shapes.
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
from attn_flax.interop.torch_architecture import infer
from attn_flax.interop.torch_files import read_state_dict
from attn_flax.interop.torch_head import Head
from attn_flax.interop.torch_names import Weights, canonical
from attn_flax.layers.types import Variables
from attn_flax.models.placement import Fields, Placement
from attn_flax.models.resnet import ResNet

# PyTorch module -> module of this library; of several rules for a name, the first one holds.
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
  """The name of a block here; PyTorch counts blocks from 0, this library from 1."""
  return f'stage{match[1]}_block{int(match[2]) + 1}'


def _nested(prefix: str, rules: _Rules, name: str) -> str:
  inner = _renamed(rules, name)
  return f'{prefix}/{inner}' if inner else ''


def _renamed(rules: _Rules, name: str) -> str:
  """The name of a module here, or '' where no rule holds."""
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
    source: a file (.pth, .pth.tar, .pt, .bin, .ckpt: these need torch; .safetensors; .npz), or a
      state dict of arrays. Averaged weights are preferred to the raw ones beside them; where a
      file holds several networks, a line on standard error says which is read.
    attention_kwargs: fields of the mechanism that do not show in the weights, such as CBAM's
      `pools` or BAM's `dilation`, where they are not those of the released code.
    **fields: likewise fields of the network, such as `stride_in` or `max_pool`. Another
      `num_classes` than that of the weights gives a fresh head, and None leaves the head out.

  Returns:
    The model and its variables, `{'params', 'batch_stats'}`. It has no head where the weights have
    none and `num_classes` is not given. Up to rounding, its logits are those of PyTorch, for images
    in [N, H, W, C].

  Raises:
    UserError: for a file that cannot be read, an unknown architecture, and weights that are
      missing, unexpected or of another shape, each by name.
  """
  kwargs = {} if attention_kwargs is None else attention_kwargs
  check_type('attention_kwargs', kwargs, Mapping, 'fields by name, such as {"dilation": 4}')
  weights = canonical(read_state_dict(source))
  classes = weights.classes
  if 'num_classes' in fields and (classes is None or classes != fields['num_classes']):
    weights = weights.without_head()
  try:
    model = infer(weights, dict(kwargs), fields)
    return model, convert(weights, model)
  except UserError as error:
    given = [f'{name}={shown(value)}' for name, value in {**kwargs, **fields}.items()]
    if not given:
      raise
    raise UserError(f'{error} (given: {", ".join(given)})') from None


def convert(weights: Weights, model: ResNet) -> Variables:
  """Variables of a model from weights in canonical names.

  Where the weights have no head, that of the model is a fresh one.

  Raises:
    UserError: for weights that are missing, unexpected or of another shape, each by its name in the
      file.
  """
  state = weights.arrays
  shape = (model.stride, model.stride, weights.channels)
  expected = flax.traverse_util.flatten_dict(dict(abstract_variables(model, shape)), sep='/')
  found: dict[str, np.ndarray | jax.Array] = {}
  if weights.classes is None and model.num_classes is not None:
    found = _fresh_head(model, shape)
  unexpected, misshapen = [*weights.head.unknown, *weights.head.behind], []
  for name, value in state.items():
    path = _path(name, 'conv1.6.weight' in state, expected)
    if path not in expected or path in found:
      unexpected.append(weights.original(name))
      continue
    array = _to_flax(value, expected[path].shape)
    if array.shape != expected[path].shape:
      misshapen.append(f'{weights.original(name)} {value.shape} for {path} {expected[path].shape}')
    found[path] = array.astype(np.float32)
  names = _torch_names(weights, expected)
  missing = [
    f'{weights.original(names[path])} (for {path})' if path in names else path
    for path in expected
    if path not in found
  ]
  problems = {'missing': missing, 'unexpected': unexpected, 'of another shape': misshapen}
  if any(problems.values()):
    listed = '; '.join(f'{what}: {", ".join(names)}' for what, names in problems.items() if names)
    raise UserError(f'the weights do not fit {describe(model)}: {listed}{_hint(weights.head)}')
  arrays = {path: jax.numpy.asarray(found[path]) for path in expected}
  return flax.traverse_util.unflatten_dict(arrays, sep='/')


def _hint(head: Head) -> str:
  """What to do about weights behind the network that are not those of one layer."""
  fresh = 'from_torch(..., num_classes=<number>) starts a fresh one, and num_classes=None has none'
  if len(head.candidates) > 1:
    listed = ' and '.join(head.candidates)
    return f'; each of {listed} may be the head, so give only the one that is; {fresh}'
  return f'; the head is not one layer that takes the features; {fresh}' if head.behind else ''


def _fresh_head(model: ResNet, shape: tuple[int, ...]) -> dict[str, np.ndarray | jax.Array]:
  """A freshly initialized head; the rest of the network is traced, not computed."""

  @jax.jit
  def start(key: jax.Array) -> Variables:
    return model.init(key, jax.numpy.zeros((1, *shape)), train=False)['params']['head']

  return {f'params/head/{name}': value for name, value in start(jax.random.key(0)).items()}


def _torch_names(weights: Weights, expected: Mapping[str, object]) -> dict[str, str]:
  """PyTorch's name of each weight by its path here, also of weights that are missing.

  A module that a block lacks is named as in the other blocks.
  """
  modules = {name.rpartition('.')[0] for name in weights.arrays} | {'fc', 'bn1'}
  inner = {match[1] for name in modules if (match := re.match(r'layer\d+\.\d+\.(.+)', name))}
  inner |= {'downsample.conv', 'downsample.norm'}
  blocks = {match[1] for name in modules if (match := re.match(r'(layer\d+\.\d+)\.', name))}
  modules |= {f'{block}.{name}' for block in blocks for name in inner}
  deep = 'conv1.6.weight' in weights.arrays
  return {
    _path(f'{module}.{leaf}', deep, expected): f'{module}.{leaf}'
    for module in sorted(modules)
    for leaf in ('weight', 'bias', 'running_mean', 'running_var')
  }


def describe(model: ResNet) -> str:
  """A network in a few words, for errors."""
  parts = [f'a {model.block} ResNet with depths {model.depths} and widths {model.widths}']
  parts += [_describe_placement(placement) for placement in model.attention]
  return ', '.join(parts)


def _describe_placement(placement: Placement) -> str:
  return f'{placement.module.__name__} at {placement.where!r} of stages {placement.stages}'


def _path(name: str, deep: bool, expected: Mapping[str, object]) -> str:
  """The path of a weight below `params` or `batch_stats`; `deep`: whether the stem is deep."""
  module, _, leaf = name.rpartition('.')
  target = _renamed(_RULES, module)
  if target == 'stem_norm' and deep:
    target = 'stem_norm3'
  # The network says which modules are norms, because a file may lack their statistics.
  is_norm = f'params/{target}/scale' in expected
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
  """A weight in the layout of Flax, where kernels have input and output channels last."""
  if value.ndim == 4 and len(shape) == 2 and value.shape[2:] == (1, 1):
    value = value[:, :, 0, 0]  # A 1x1 convolution that is a dense layer here.
  if value.ndim < 2:
    return value
  return value.transpose(*range(2, value.ndim), 1, 0)
