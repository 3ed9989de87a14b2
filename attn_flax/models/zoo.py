"""The networks by name."""

import functools
import re
from collections.abc import Callable

from attn_flax.errors import UserError, check_choice
from attn_flax.models.mnasnet import MnasNet
from attn_flax.models.network import Network
from attn_flax.models.resnet import ResNet
from attn_flax.models.vit import ViT

_basic = functools.partial(ResNet, widths=(64, 128, 256, 512))
_bottleneck = functools.partial(_basic, block='bottleneck')
_DEPTHS_50, _DEPTHS_101 = (3, 4, 6, 3), (3, 4, 23, 3)


def _cifar(depth: int) -> Callable[..., ResNet]:
  """He et al.'s CIFAR network of 6n + 2 layers; its shortcuts project where theirs pad zeros."""
  depths = ((depth - 2) // 6,) * 3
  return functools.partial(ResNet, depths=depths, widths=(16, 32, 64), stem='cifar', stem_width=16)


def _wide(depth: int, widen: int) -> Callable[..., ResNet]:
  """Zagoruyko and Komodakis' pre-activation network of 6n + 4 layers."""
  return functools.partial(
    ResNet,
    depths=((depth - 4) // 6,) * 3,
    widths=tuple(widen * width for width in (16, 32, 64)),
    block='preact',
    stem='cifar',
    stem_width=16,
  )


MODELS: dict[str, Callable[..., Network]] = {
  'resnet18': functools.partial(_basic, depths=(2, 2, 2, 2)),
  'resnet34': functools.partial(_basic, depths=(3, 4, 6, 3)),
  # The depths of stand-alone self-attention (Ramachandran et al., section 4.1).
  'resnet26': functools.partial(_bottleneck, depths=(1, 2, 4, 1)),
  'resnet38': functools.partial(_bottleneck, depths=(2, 3, 5, 2)),
  'resnet50': functools.partial(_bottleneck, depths=_DEPTHS_50),
  'resnet101': functools.partial(_bottleneck, depths=_DEPTHS_101),
  'resnet152': functools.partial(_bottleneck, depths=(3, 8, 36, 3)),
  **{f'resnet{depth}': _cifar(depth) for depth in (20, 32, 44, 56, 110)},
  # Wider stages after a stem of 64 channels (Woo et al., CBAM, table 4).
  'wide_resnet18_1.5': functools.partial(_basic, depths=(2, 2, 2, 2), widths=(96, 192, 384, 768)),
  'wide_resnet18_2': functools.partial(_basic, depths=(2, 2, 2, 2), widths=(128, 256, 512, 1024)),
  # Wider inner convolutions (torchvision).
  'wide_resnet50_2': functools.partial(_bottleneck, depths=_DEPTHS_50, base_width=128),
  'resnext50_32x4d': functools.partial(_bottleneck, depths=_DEPTHS_50, groups=32, base_width=4),
  'resnext101_32x4d': functools.partial(_bottleneck, depths=_DEPTHS_101, groups=32, base_width=4),
  # Zagoruyko and Komodakis; `wrn<depth>_<widen>` names any of them.
  **{f'wrn{depth}_{widen}': _wide(depth, widen) for depth, widen in ((16, 4), (28, 10), (40, 4))},
  **{
    f'mnasnet_a1{suffix}': functools.partial(MnasNet, width_multiplier=multiplier)
    for suffix, multiplier in (('_0.75', 0.75), ('', 1.0), ('_1.25', 1.25), ('_1.4', 1.4))
  },
  'vit_ti16': functools.partial(ViT, patch=16, width=192, depth=12, heads=3, mlp_width=768),
  'vit_s16': functools.partial(ViT, patch=16, width=384, depth=12, heads=6, mlp_width=1536),
  'vit_b16': functools.partial(ViT, patch=16, width=768, depth=12, heads=12, mlp_width=3072),
  # For images of 32x32.
  'vit_tiny32': functools.partial(ViT, patch=4, width=192, depth=6, heads=3, mlp_width=768),
}


def list_models() -> list[str]:
  """The names of networks that `create_model` knows; it takes any `wrn<depth>_<widen>`, too."""
  return sorted(MODELS)


def find_network(name: str) -> Network:
  """A network by name.

  Raises:
    UserError: for an unknown name.
  """
  if wide := re.fullmatch(r'wrn(\d{1,5})_(\d{1,5})', str(name)):
    depth, widen = int(wide[1]), int(wide[2])
    if depth < 10 or depth % 6 != 4 or widen < 1:
      raise UserError(
        f'{name!r} names no WideResNet: its depth must be 6n + 4; choose a depth such as 16, 28 or '
        '40, and a width of at least 1'
      )
    return _wide(depth, widen)()
  check_choice('model', name, MODELS)
  return MODELS[name]()
