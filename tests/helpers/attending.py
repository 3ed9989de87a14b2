"""Networks with every mechanism, and the maps that each of them has."""

import numpy as np

from attn_flax import create_model, list_attention

N, H, W, CLASSES = 2, 24, 16, 4
# Feature maps of the stages, and their channels.
GRIDS = {1: (24, 16), 2: (12, 8), 3: (6, 4)}
WIDTHS = {1: 8, 2: 16, 3: 32}
# Fields with which a mechanism fits few channels and few blocks.
FIELDS = {
  **{name: {'ratio': 4} for name in ('additive', 'bam', 'cbam', 'hybrid', 'se')},
  'aa': {'heads': 2, 'min_key_dim': 4, 'upsilon': 0.25},
  'non_local': {'every': 1},
  'sasa': {'heads': 2},
}
BRANCH, STAGE = 'stage{}_block1/branch_attention', 'stage{}_stage_attention'
# By mechanism: the path at a stage, its stages, and its gates.
GATED = {
  'additive': (BRANCH, (1, 2, 3), ('spatial_gate',)),
  'bam': (STAGE, (1, 2), ('gate',)),
  'cbam': (BRANCH, (1, 2, 3), ('channel_gate', 'spatial_gate')),
  'eca': (BRANCH, (1, 2, 3), ('channel_gate',)),
  'hybrid': (BRANCH, (1, 2, 3), ('channel_gate', 'spatial_gate')),
  'sca': (BRANCH, (3,), ('channel_gate', 'spatial_gate')),
  'se': (BRANCH, (1, 2, 3), ('channel_gate',)),
}
# By mechanism and path: heads, map of the queries, map of the keys. Stand-alone attention acts on
# the block's input, before its stride; the other strided mechanisms act after it.
CONV = 'stage{}_block1/conv_attention'
WEIGHTED = {
  'aa': {CONV.format(s): (2, GRIDS[s], GRIDS[s]) for s in (2, 3)},
  'dual': {'stage3_stage_attention/position': (1, GRIDS[3], GRIDS[3])},
  'non_local': {'stage2_block1/block_attention': (1, GRIDS[2], GRIDS[3])},
  'sasa': {CONV.format(s): (2, GRIDS[max(s - 1, 1)], GRIDS[max(s - 1, 1)]) for s in (1, 2, 3)},
}
NAMES = list_attention()


def images(seed=0):
  return np.random.default_rng(seed).normal(size=(N, H, W, 3)).astype(np.float32)


def network(attention=None, depths=(1, 1, 1), kwargs=None, **fields):
  if isinstance(attention, str) and kwargs is None:
    kwargs = FIELDS.get(attention)
  return create_model(
    'resnet20',
    depths=depths,
    widths=tuple(WIDTHS.values()),
    stem_width=8,
    num_classes=CLASSES,
    attention=attention,
    attention_kwargs=kwargs,
    **fields,
  )


def vit(pool='token', depth=3):
  return create_model(
    'vit_tiny32', width=16, depth=depth, heads=2, mlp_width=16, num_classes=CLASSES, pool=pool
  )
