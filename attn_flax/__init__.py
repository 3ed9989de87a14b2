"""attn_flax: attention mechanisms inside ResNets, trained, costed, explained and compared."""

from attn_flax.cost import count_macs, count_params
from attn_flax.errors import UserError
from attn_flax.explain import attention_maps, grad_cam
from attn_flax.models import create_model, list_attention, list_models
from attn_flax.torch_import import from_torch

__all__ = [
  'UserError',
  'attention_maps',
  'count_macs',
  'count_params',
  'create_model',
  'from_torch',
  'grad_cam',
  'list_attention',
  'list_models',
]
