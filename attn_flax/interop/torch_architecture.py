"""The network that a PyTorch state dict belongs to, found by its names and shapes."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from attn_flax.attention.compose import hidden_channels
from attn_flax.errors import UserError, check_choice
from attn_flax.models import add_attention
from attn_flax.models.placement import Fields, field_names
from attn_flax.models.resnet import ResNet

StateDict = Mapping[str, np.ndarray]

_OLD_NAMES = (('layer0.', ''), ('se_module.', 'se.'))
_HEADS = ('fc', 'classifier', 'last_linear', 'head.fc', 'head')
# Of wrappers that keep an average of the weights, the average, which their users evaluate; of
# contrastive networks, the encoder that their users keep.
_PREFERRED = (r'(^|[._])(ema|averaged?|swa|teacher)([._]|$)', r'(^|\.)(encoder_q|online\w*)\.')
# What wrappers and norms keep beside the weights.
_BESIDE = re.compile(
  r'(.*\.)?(num_batches_tracked|n_averaged|queue\w*|initted|step|decay|num_updates)'
)


class Weights(NamedTuple):
  """A state dict with the names of torchvision, but `downsample.conv` and `downsample.norm`.

  Attributes:
    arrays: weights by name.
    legacy: whether the file's names are those of the older SE networks, which follow Caffe's.
    pooled_shortcut: whether the shortcuts pool before their convolution.
    names: the file's names of the weights, by the names here.
    root: the prefix of all names of the network in the file, such as 'module.'.
  """

  arrays: dict[str, np.ndarray]
  legacy: bool
  pooled_shortcut: bool
  names: dict[str, str]
  root: str

  @property
  def classes(self) -> int | None:
    """Classes of the head; None where there is no head."""
    head = self.arrays.get('fc.weight')
    return None if head is None else head.shape[0]

  @property
  def channels(self) -> int:
    """Channels of the images, read off the stem's first convolution."""
    stem = self.arrays.get('conv1.0.weight', self.arrays.get('conv1.weight'))
    return 3 if stem is None else stem.shape[1]

  def original(self, name: str) -> str:
    """The name that a weight has in its file, or would have there."""
    if name in self.names:
      return self.names[name]
    module, _, leaf = name.rpartition('.')
    for known, old in self.names.items():
      if known.rpartition('.')[0] == module:
        return f'{old.rpartition(".")[0]}.{leaf}'
    conv, norm = (1, 2) if self.pooled_shortcut else (0, 1)
    name = name.replace('downsample.conv', f'downsample.{conv}')
    return self.root + name.replace('downsample.norm', f'downsample.{norm}')


def canonical(state: StateDict) -> Weights:
  """Renames a state dict as `Weights` describes.

  Strips the prefixes that wrappers put before the names, and drops the counters of batch norms.

  Raises:
    UserError: for a state dict with several networks, none of which is to be preferred.
  """
  root = _root(state)
  names: dict[str, str] = {}
  for name in state:
    if _BESIDE.fullmatch(name) or (root and _belongs_to_another(name, root, state)):
      continue
    clean = name.removeprefix(root)
    if not name.startswith(root):
      # A head may stand beside the network that a wrapper holds.
      clean = re.sub(r'^((module|_orig_mod|model)\.)+', '', name)
    elif not root:
      clean = re.sub(r'^(module|_orig_mod|model|backbone)\.', '', name)
    if clean in names:
      raise UserError(
        f'the weights hold {clean} twice, as {names[clean]} and as {name}; drop one of the two'
      )
    names[clean] = name
  legacy = 'layer0.conv1.weight' in names
  if legacy:
    for before, after in _OLD_NAMES:
      names = {clean.replace(before, after): name for clean, name in names.items()}
  names = _with_head(names, state)
  # A pooled shortcut begins with its pool, which has no weights; its convolution is number 1.
  pooled = any(
    clean.endswith('downsample.1.weight') and state[name].ndim == 4 for clean, name in names.items()
  )
  conv, norm = (1, 2) if pooled else (0, 1)
  names = {
    clean.replace(f'downsample.{conv}.', 'downsample.conv.').replace(
      f'downsample.{norm}.', 'downsample.norm.'
    ): name
    for clean, name in names.items()
  }
  arrays = {clean: state[name] for clean, name in names.items()}
  return Weights(arrays, legacy, pooled, names, root)


def _roots(state: StateDict) -> list[str]:
  """The prefix of the names of each network that a state dict holds."""
  pattern = re.compile(r'((?:.*\.)?)layer\d+\.\d+\.conv\d\.weight')
  return sorted({match[1] for name in state if (match := pattern.fullmatch(name))})


def _root(state: StateDict) -> str:
  roots = _roots(state)
  for pattern in _PREFERRED:
    preferred = [root for root in roots if re.search(pattern, root)]
    if len(roots) > 1 and len(preferred) == 1:
      return preferred[0]
  if len(roots) > 1:
    listed = ' and '.join(repr(root) for root in roots)
    raise UserError(
      f'the weights hold {len(roots)} networks, below {listed}; give one of them, as in '
      f'{{name: value for name, value in state.items() if name.startswith({roots[-1]!r})}}'
    )
  return roots[0] if roots else ''


def _belongs_to_another(name: str, root: str, state: StateDict) -> bool:
  """Whether a weight belongs to another network beside the one below `root`."""
  if name.startswith(root):
    return False
  return any(name.startswith(other) for other in _roots(state) if other != root)


def _with_head(names: dict[str, str], state: StateDict) -> dict[str, str]:
  """Names with the head as `fc`, also where it is the only layer of a sequence, as in `fc.1`."""
  for head in _HEADS:
    pattern = re.compile(rf'({re.escape(head)}(?:\.\d+)?)\.weight')
    found = {
      match[1]
      for clean, name in names.items()
      if (match := pattern.fullmatch(clean)) and state[name].ndim == 2
    }
    if len(found) == 1:
      old = found.pop() + '.'
      return {
        f'fc.{clean.removeprefix(old)}' if clean.startswith(old) else clean: name
        for clean, name in names.items()
      }
  return names


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
      'seresnext*, ecaresnet*, legacy_seresnet*, legacy_seresnext*), Jongchan/attention-module and '
      'BangguWu/ECANet'
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
