"""attn_flax: attention mechanisms inside ResNets, trained, costed, explained and compared."""

from attn_flax.attention import list_attention
from attn_flax.costs.count import count_macs, count_params
from attn_flax.errors import UserError
from attn_flax.explain import attention_maps, grad_cam
from attn_flax.interop.torch_weights import from_torch
from attn_flax.models import create_model, list_models

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

__version__ = '0.1.0'
