"""Networks by name, with attention modules at the places that they have for them."""

from attn_flax.models.create import add_attention, create_model
from attn_flax.models.network import Network
from attn_flax.models.zoo import MODELS, list_models

__all__ = ['MODELS', 'Network', 'add_attention', 'create_model', 'list_models']
