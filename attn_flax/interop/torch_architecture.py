"""The network that PyTorch weights belong to, found by their names and shapes."""

import re
from typing import Any

from attn_flax.attention.compose import hidden_channels
from attn_flax.errors import UserError, check_choice
from attn_flax.interop.torch_names import Weights
from attn_flax.interop.torch_networks import StateDict
from attn_flax.models import add_attention
from attn_flax.models.placement import Fields, field_names
from attn_flax.models.resnet import ResNet


def infer(weights: Weights, attention_kwargs: Fields, fields: Fields) -> ResNet:
  """Makes the network that some weights belong to.

  Args:
    weights: the result of `canonical`.
    attention_kwargs: fields of the mechanism; they override the inferred ones.
    fields: fields of the network; they override the inferred ones.

  Raises:
    UserError: for weights that are not those of a residual network with batch norms, or for
      unknown fields.
  """
  state = weights.arrays
  depths = _depths(weights)
  bottleneck = 'layer1.0.conv3.weight' in state
  last = 'conv3' if bottleneck else 'conv2'
  outputs = [state[f'layer{i}.0.{last}.weight'].shape[0] for i in range(1, len(depths) + 1)]
  found: dict[str, Any] = {
    'depths': depths,
    'widths': tuple(width // (4 if bottleneck else 1) for width in outputs),
    'block': 'bottleneck' if bottleneck else 'basic',
    'num_classes': weights.classes,
    'stem_width': state['bn1.weight'].shape[0],
    'stem': _stem(state),
    'shortcut': 'avg' if weights.pooled_shortcut else 'conv',
  }
  if bottleneck:
    inner, per_group = state['layer1.0.conv2.weight'].shape[:2]
    found['groups'] = inner // per_group
    found['base_width'] = per_group * 64 // found['widths'][0]
  if weights.legacy:
    # These have Caffe's pooling, the paper's stride except in grouped bottlenecks, and in basic
    # blocks a ReLU after the branch's last norm.
    found['max_pool'] = 'caffe'
    found['stride_in'] = '1x1' if bottleneck and found['groups'] == 1 else '3x3'
    found['branch_relu'] = not bottleneck
  for field in fields:
    check_choice('field of a ResNet', field, [f for f in field_names(ResNet) if f != 'attention'])
  model = ResNet(**{**found, **fields})
  attention = _attention(state, depths, outputs)
  if attention is None:
    if attention_kwargs:
      raise UserError('the weights hold no attention; leave attention_kwargs out')
    return model
  where, entry = attention
  return add_attention(model, {where: {**entry, **attention_kwargs}})


def _depths(weights: Weights) -> tuple[int, ...]:
  """Blocks per stage."""
  state = weights.arrays
  found: dict[int, int] = {}
  for name in state:
    if match := re.match(r'layer(\d+)\.(\d+)\.conv1\.weight', name):
      found[int(match[1])] = max(found.get(int(match[1]), 0), int(match[2]) + 1)
  stem = 'conv1.0.weight' if 'conv1.0.weight' in state else 'conv1.weight'
  last = 'conv3' if 'layer1.0.conv3.weight' in state else 'conv2'
  needed = [stem, 'bn1.weight', 'bn1.running_mean', 'layer1.0.bn1.running_mean']
  needed += [f'layer{stage}.0.{conv}.weight' for stage in found or (1,) for conv in ('conv2', last)]
  missing = [name for name in needed if name not in state]
  if missing or sorted(found) != list(range(1, len(found) + 1)):
    why = f'no {weights.original(missing[0])}' if missing else f'stages {sorted(found)}'
    raise UserError(
      'the weights are not those of a residual network with batch norms in a known naming '
      f'({why}); known are torchvision, timm (resnet*, resnext*, wide_resnet*, seresnet*, '
      'seresnext*, ecaresnet*, legacy_seresnet*, legacy_seresnext*), kuangliu/pytorch-cifar, '
      'Jongchan/attention-module and BangguWu/ECANet'
    )
  return tuple(found[stage] for stage in sorted(found))


def _stem(state: StateDict) -> str:
  if 'conv1.0.weight' in state:
    first, second = (state[f'conv1.{i}.weight'].shape[0] for i in (0, 3))
    return 'deep' if first == second else 'tiered'
  return 'cifar' if state['conv1.weight'].shape[-1] == 3 else 'imagenet'


def _attention(
  state: StateDict, depths: tuple[int, ...], outputs: list[int]
) -> tuple[str, Fields] | None:
  """The place of the mechanism and its entry (see `create_model`), or None."""
  if 'bam1.channel_att.gate_c.gate_c_fc_0.weight' in state:
    return 'stage', _bam(state, outputs)
  finders = {
    'se.fc1.weight': _se,
    'se.conv.weight': _eca,
    'eca.conv.weight': _eca,
    'cbam.ChannelGate.mlp.1.weight': _cbam,
  }
  for suffix, finder in finders.items():
    stages = _stages_with(state, depths, suffix)
    if stages:
      hidden = {i: state[f'layer{i}.0.{suffix}'].shape for i in stages}
      channels = {i: outputs[i - 1] for i in stages}
      return 'branch', {'stages': stages, **finder(state, hidden, channels)}
  return None


def _stages_with(state: StateDict, depths: tuple[int, ...], suffix: str) -> tuple[int, ...]:
  """The stages whose blocks hold a weight, which all blocks of a stage must have, or none."""
  stages = []
  for stage, depth in enumerate(depths, start=1):
    present = [f'layer{stage}.{i}.{suffix}' in state for i in range(depth)]
    if any(present) and not all(present):
      raise UserError(
        f'only some blocks of layer{stage} hold {suffix}; give weights where all of them or none do'
      )
    stages += [stage] if all(present) else []
  return tuple(stages)


def _se(state: StateDict, shapes: dict[int, tuple], channels: dict[int, int]) -> Fields:
  hidden = {i: shape[0] for i, shape in shapes.items()}
  bias = any(name.endswith('se.fc1.bias') for name in state)
  return {'name': 'se', 'bias': bias, **_ratio(hidden, channels)}


def _eca(state: StateDict, shapes: dict[int, tuple], channels: dict[int, int]) -> Fields:
  del state, channels
  sizes = {i: shape[-1] for i, shape in shapes.items()}
  # One size per stage of the network; stages without attention never use theirs.
  return {'name': 'eca', 'kernel_size': tuple(sizes.get(i, 3) for i in range(1, max(sizes) + 1))}


def _cbam(state: StateDict, shapes: dict[int, tuple], channels: dict[int, int]) -> Fields:
  stage = min(shapes)
  found = {'name': 'cbam', **_ratio({i: shape[0] for i, shape in shapes.items()}, channels)}
  found.pop('divisor')
  conv = state.get(f'layer{stage}.0.cbam.SpatialGate.spatial.conv.weight')
  return found | ({'order': 'channel_only'} if conv is None else {'kernel_size': conv.shape[-1]})


def _bam(state: StateDict, outputs: list[int]) -> Fields:
  stages = tuple(i for i in range(1, len(outputs) + 1) if f'bam{i}.{_BAM_REDUCE}' in state)
  hidden = {i: state[f'bam{i}.{_BAM_REDUCE}'].shape[0] for i in stages}
  found = {'name': 'bam', 'stages': stages, **_ratio(hidden, {i: outputs[i - 1] for i in stages})}
  found.pop('divisor')
  dilated = re.compile(rf'bam{stages[0]}\.spatial_att\.gate_s\.gate_s_conv_di_\d+\.weight')
  return found | {'depth': sum(bool(dilated.fullmatch(name)) for name in state)}


_BAM_REDUCE = 'channel_att.gate_c.gate_c_fc_0.weight'


def _ratio(hidden: dict[int, int], channels: dict[int, int]) -> dict[str, int]:
  """The ratio and the divisor that give every stage its hidden width."""
  for divisor in (1, 8):
    for ratio in range(1, min(channels.values()) + 1):
      if all(hidden_channels(channels[i], ratio, divisor) == hidden[i] for i in hidden):
        return {'ratio': ratio, 'divisor': divisor}
  raise UserError(
    f'the hidden widths {list(hidden.values())} of the attention fit no common ratio of its '
    f'channels {list(channels.values())}; give weights with the same ratio in all stages'
  )
