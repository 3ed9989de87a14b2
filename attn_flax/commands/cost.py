"""Prints parameters and multiply-adds, by `--mode=cost`."""

import pathlib

from absl import flags

from attn_flax.attention import list_attention
from attn_flax.attention.names import find_attention
from attn_flax.costs import table
from attn_flax.errors import UserError
from attn_flax.models.zoo import find_network


def run(values: flags.FlagValues) -> None:
  """Prints a table: of the networks and mechanisms asked for, or beside printed costs."""
  if values.published:
    rows = table.published_table(pathlib.Path(values.published))
  else:
    attentions = ['none', *list_attention()] if values.attentions is None else values.attentions
    for flag, names in (('models', values.models), ('attentions', attentions)):
      if not names:
        raise UserError(f'--{flag} is empty; name one at least, or leave it out')
    for name in values.models:
      find_network(name)
    for name in attentions:
      if name != 'none':
        find_attention(name)
    fields = {'num_classes': values.num_classes, 'image_size': values.image_size}
    if values.stride_in:
      fields['stride_in'] = values.stride_in
    rows = table.cost_table(values.models, attentions, **fields)
  print(table.format_table(rows))
