"""Explanation maps and their scores: pure functions of a network, its variables and images.

Images are normalized, [N, H, W, 3] float32, labels [N] int32 and maps float32. Every function is
compiled with the network as a static argument, and may be called inside another compiled function.
No map is normalized: the size of its values has a meaning, and a map that is zero everywhere says
that the method found nothing. What is explained is the logit of the label, in evaluation mode,
unless a function says otherwise. The network is one of the library or any Linen module that turns
images into logits, see `networks`. Random numbers for an image depend on the key and the image
alone, see `chance`.
"""

from attn_flax.batching import in_batches
from attn_flax.explain.attention import (
  attention_from,
  attention_maps,
  attention_received,
  own_map,
)
from attn_flax.explain.cam import grad_cam, grad_cam_plus_plus, hires_cam, layer_cam
from attn_flax.explain.gradients import integrated_gradients, smooth_grad
from attn_flax.explain.localization import energy_inside, pointing_game, threshold_iou
from attn_flax.explain.occlusion import occlusion
from attn_flax.explain.perturbation import insertion_deletion, road
from attn_flax.explain.rollout import attention_rollout
from attn_flax.explain.taps import activations, activations_and_gradients

__all__ = [
  'activations',
  'activations_and_gradients',
  'attention_from',
  'attention_maps',
  'attention_received',
  'attention_rollout',
  'energy_inside',
  'grad_cam',
  'grad_cam_plus_plus',
  'hires_cam',
  'in_batches',
  'insertion_deletion',
  'integrated_gradients',
  'layer_cam',
  'occlusion',
  'own_map',
  'pointing_game',
  'road',
  'smooth_grad',
  'threshold_iou',
]
