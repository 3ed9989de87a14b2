"""Checkpoints of a run, written atomically and with digests, and how weights are read from them."""

from attn_flax.training.checkpoints.folder import Checkpoints
from attn_flax.training.checkpoints.weights import read_weights, restore_best
from attn_flax.training.checkpoints.whole import Damaged

__all__ = ['Checkpoints', 'Damaged', 'read_weights', 'restore_best']
