"""Prints parameters and multiply-adds of networks, by `--mode=cost`."""

import pathlib

from absl import flags

from attn_flax.attention.names import find_attention, list_attention
from attn_flax.costs import table
from attn_flax.errors import UserError
from attn_flax.models.resnet import ResNet
from attn_flax.models.zoo import find_network


def run(values: flags.FlagValues) -> None:
  """Prints a table of the networks and mechanisms asked for, or compares with published costs."""
  if values.published:
    rows = table.published_table(pathlib.Path(values.published))
  else:
    attentions = ['none', *list_attention()] if values.attentions is None else values.attentions
    # A mechanism that a network does not take is a row with the reason; unknown names are errors.
    models = [find_network(name) for name in values.models]
    for name in attentions:
      if name != 'none':
        find_attention(name)
    fields = {'num_classes': values.num_classes, 'image_size': values.image_size}
    if values.stride_in:
      if not any(isinstance(model, ResNet) and model.block == 'bottleneck' for model in models):
        networks = ', '.join(values.models)
        raise UserError(
          f'--stride_in does nothing without bottlenecks, such as in {networks}; leave it out'
        )
      fields['stride_in'] = values.stride_in
    rows = table.cost_table(values.models, attentions, **fields)
  print(table.format_table(rows))
