"""Costs as tables: of any networks and mechanisms, and beside the figures that papers print.

The papers count differently, which is the main trap of comparing them:
  decimal      10^6 parameters, 10^9 multiply-adds (SE, CBAM, BAM, ResNeXt)
  binary       2^20 parameters, 2^30 operations of the tool `thop`: multiply-adds, 4 per normalized
               element, 1 per element of a ReLU or an average pool (ECA)
  two_per_mac  10^6 parameters, 10^9 operations, 2 per multiply-add (AA's and SASA's baselines)
  augmented    the same with the relative scores, which AA's listing computes for all offsets, and
               8 operations per entry of the softmax matrices; query-key and weight-value products
               are not counted (fits all but one of AA's augmented rows)
"""

import csv
import io
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.costs.count import abstract_variables, count_operations, count_params, macs
from attn_flax.data.files import read_file
from attn_flax.errors import UserError, check_choice, check_counts, check_type, shown
from attn_flax.layers.types import Model, Variables
from attn_flax.models import create_model

Row = dict[str, str | int | bool]


def cost_row(model: Model, input_shape: tuple[int, ...]) -> Row:
  """Parameters and multiply-adds of one image of shape (H, W, C), in each unit."""
  variables = abstract_variables(model, input_shape)
  params, counted = count_params(variables), macs(model, input_shape, variables)
  return {
    'params': params,
    'params_1e6': f'{params / 1e6:.2f}',
    'params_2^20': f'{params / 2**20:.2f}',
    'macs': counted.layers,
    'macs_1e9': f'{counted.layers / 1e9:.3f}',
    'macs_2^30': f'{counted.layers / 2**30:.3f}',
    'flops_1e9': f'{2 * counted.layers / 1e9:.3f}',
    'macs_with_attention': sum(counted),
    'with_attention_1e9': f'{sum(counted) / 1e9:.3f}',
  }


def cost_table(
  models: Iterable[str], attentions: Iterable[str], *, image_size: int, **fields: Any
) -> list[Row]:
  """A row for each network with each mechanism; `none` is the network alone.

  Raises:
    UserError: where no row can be made.
  """
  models, attentions = _names('models', models), _names('attentions', attentions)
  check_counts(image_size=image_size)
  rows: list[Row] = []
  refused = []
  for name in models:
    for attention in attentions:
      label = {'model': name, 'attention': attention}
      try:
        model = create_model(name, attention=None if attention == 'none' else attention, **fields)
        rows.append({**label, **cost_row(model, (image_size, image_size, 3))})
      except UserError as error:
        refused.append((label, error))
  if not rows:
    raise refused[0][1]
  # A mechanism that a network does not take is a row with the reason, not the end of the table.
  empty = dict.fromkeys(rows[0], '-')
  rows = [{**row, 'reason': ''} for row in rows]
  return rows + [{**empty, **label, 'reason': str(error)} for label, error in refused]


def _names(what: str, names: object) -> list[str]:
  """Names as a list; raises `UserError` for what is none, and for none at all."""
  if isinstance(names, str) or not isinstance(names, Iterable):
    raise UserError(f'{what}={shown(names)} is impossible; give a list of names')
  found = list(names)
  if not found:
    raise UserError(f'{what} is empty; name one at least')
  for i, name in enumerate(found):
    check_type(f'{what}[{i}]', name, str, 'a name')
  return found


def published_table(path: pathlib.Path) -> list[Row]:
  """Printed figures beside ours, from a CSV of rows as in `tests/data/published_costs.csv`.

  Returns:
    `source`, `row`, printed `params` and `macs`, ours in the same units and digits, `fits`, and
    the reason given where a row is known not to be reproduced.

  Raises:
    UserError: when the file cannot be read.
  """
  check_type('published', path, pathlib.Path, 'the path of a CSV')
  try:
    published = list(csv.DictReader(io.StringIO(read_file(path).decode(), newline='')))
  except (OSError, ValueError, csv.Error) as error:
    reason = error.strerror if isinstance(error, OSError) else error
    raise UserError(
      f'the published costs {path} cannot be read ({reason}); name a CSV of printed costs'
    ) from None
  missing = [name for name in _COLUMNS if not published or name not in published[0]]
  if missing:
    raise UserError(
      f'the published costs {path} have no rows with {", ".join(missing)}; name a CSV of printed '
      'costs'
    )
  return [_compare(row) for row in published]


_COLUMNS = (
  *('source', 'row', 'model', 'attention', 'fields', 'num_classes', 'image_size', 'convention'),
  *('params', 'macs', 'not_reproduced'),
)


def format_table(rows: list[Row]) -> str:
  """Rows as an aligned text table."""
  header: Row = {name: name for name in rows[0]}
  widths = {name: max(len(str(row[name])) for row in (header, *rows)) for name in header}
  lines = [
    '  '.join(str(row[name]).rjust(width) for name, width in widths.items())
    for row in (header, *rows)
  ]
  return '\n'.join(lines)


def _compare(row: Mapping[str, str]) -> Row:
  check_choice('convention', row['convention'], CONVENTIONS)
  model = create_model(
    row['model'],
    attention=json.loads(row['attention']) or None,
    num_classes=int(row['num_classes']),
    **json.loads(row['fields']),
  )
  shape = (int(row['image_size']), int(row['image_size']), 3)
  variables = abstract_variables(model, shape)
  unit, count = CONVENTIONS[row['convention']]
  params, operations = count_params(variables) / unit, count(model, shape, variables)
  ours = {'params': _digits_of(row['params'], params), 'macs': _digits_of(row['macs'], operations)}
  return {
    'source': row['source'],
    'row': row['row'],
    'params': row['params'],
    'our_params': ours['params'],
    'macs': row['macs'],
    'our_macs': ours['macs'],
    'fits': all(ours[key] == row[key] for key in ours),
    'reason': row['not_reproduced'],
  }


def _digits_of(printed: str, value: float) -> str:
  """A value with as many decimals as the printed one; '' where none is printed."""
  return f'{value:.{len(printed.partition(".")[2])}f}' if printed else ''


def _decimal(model, shape, variables):
  return macs(model, shape, variables).layers / 1e9


def _two_per_mac(model, shape, variables):
  return 2 * _decimal(model, shape, variables)


def _augmented(model, shape, variables):
  found = count_operations(model, shape, variables)
  # A map of side n has n key rows and columns; the listing multiplies with all 2n - 1 offsets, here
  # taken for 2n.
  relative = 2 * found['relative']
  return (2 * (found['layers'] + relative) + 8 * found['exp']) / 1e9


def _binary(model, shape, variables):
  found = count_operations(model, shape, variables)
  elements = 4 * _normalized_elements(model, shape, variables) + found['relu'] + found['pool']
  return (found['layers'] + elements) / 2**30


# The unit of the parameters, and what counts the operations in their unit.
CONVENTIONS = {
  'decimal': (1e6, _decimal),
  'binary': (2**20, _binary),
  'two_per_mac': (1e6, _two_per_mac),
  'augmented': (1e6, _augmented),
}


def _normalized_elements(model: Model, shape: tuple[int, ...], variables: Variables) -> int:
  """Elements that pass a batch norm."""
  total = 0

  def count(next_call, args, kwargs, context):
    nonlocal total
    if isinstance(context.module, layers.BatchNorm) and context.method_name == '__call__':
      total += args[0].size
    return next_call(*args, **kwargs)

  images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  with nn.intercept_methods(count):
    jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
  return total
