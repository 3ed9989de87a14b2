"""Tables of costs: of any networks and mechanisms, and of published figures beside ours.

Papers count in different ways, so that their figures are not comparable as printed:
  decimal      10^6 parameters, 10^9 multiply-adds (SE, CBAM, BAM, ResNeXt)
  binary       2^20 parameters, 2^30 operations of the tool `thop`: multiply-adds, 4 per normalized
               element, 1 per element of a ReLU or an average pool (ECA)
  two_per_mac  10^6 parameters, 10^9 operations, 2 per multiply-add (AA's and SASA's baselines)
  augmented    as two_per_mac, plus the relative scores, which AA's listing computes for all
               offsets, and 8 operations per entry of the softmax matrices; query-key and
               weight-value products are not counted (fits all but one of AA's augmented rows)
"""

import csv
import io
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax import layers
from attn_flax.costs.count import abstract_variables, count_operations, count_params, macs
from attn_flax.errors import UserError, check_choice, check_counts, check_type, shown
from attn_flax.files import read_file
from attn_flax.layers.types import Model, Variables
from attn_flax.models import create_model

Row = dict[str, str | int | bool]


def cost_row(model: Model, input_shape: tuple[int, ...]) -> Row:
  """Parameters, and multiply-adds of one image of shape (H, W, C), in each unit.

  Raises:
    UserError: for an argument that is not a network, or not a shape.
  """
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
  """A row for each network with each mechanism.

  Args:
    models: names of networks.
    attentions: names of mechanisms; 'none' is the network alone.
    image_size: height and width of the images, in pixels.
    **fields: fields of the networks, see `create_model`.

  Returns:
    The rows; a combination that cannot be made has dashes, and the reason under `reason`.

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
  # One combination that a network does not take must not cost the other rows.
  empty = dict.fromkeys(rows[0], '-')
  rows = [{**row, 'reason': ''} for row in rows]
  return rows + [{**empty, **label, 'reason': str(error)} for label, error in refused]


def _names(what: str, names: object) -> list[str]:
  """Names as a list; raises `UserError` unless there is at least one, and all are strings."""
  if isinstance(names, str) or not isinstance(names, Iterable):
    raise UserError(f'{what}={shown(names)} is impossible; give a list of names')
  found = list(names)
  if not found:
    raise UserError(f'{what} is empty; give at least one name')
  for i, name in enumerate(found):
    check_type(f'{what}[{i}]', name, str, 'a name')
  return found


def published_table(path: pathlib.Path) -> list[Row]:
  """Published figures beside ours, from a CSV of rows as in `tests/data/published_costs.csv`.

  Returns:
    For each row: `source`, `row`, the published `params` and `macs`, `our_params` and `our_macs` in
    the same units and digits, whether all agree (`fits`), and the `reason` that the CSV gives
    for a row that is not reproduced.

  Raises:
    UserError: for a file that cannot be read or lacks columns.
  """
  check_type('published', path, pathlib.Path, 'the path of a CSV')
  try:
    published = list(csv.DictReader(io.StringIO(read_file(path).decode(), newline='')))
  except (OSError, ValueError, csv.Error) as error:
    reason = error.strerror if isinstance(error, OSError) else error
    raise UserError(
      f'the published costs {path} cannot be read ({reason}); name a CSV of published costs'
    ) from None
  missing = [name for name in _COLUMNS if not published or name not in published[0]]
  if missing:
    raise UserError(
      f'the published costs {path} have no rows with {", ".join(missing)}; name a CSV of published '
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
  """A value with as many decimals as the published one; '' where none is published."""
  return f'{value:.{len(printed.partition(".")[2])}f}' if printed else ''


def _decimal(model: Model, shape: tuple[int, ...], variables: Variables) -> float:
  return macs(model, shape, variables).layers / 1e9


def _two_per_mac(model: Model, shape: tuple[int, ...], variables: Variables) -> float:
  return 2 * _decimal(model, shape, variables)


def _augmented(model: Model, shape: tuple[int, ...], variables: Variables) -> float:
  found = count_operations(model, shape, variables)
  # A feature map of side n has n key rows and n key columns, which `relative` counts; the listing
  # multiplies with all 2n - 1 offsets, which are taken as 2n here.
  relative = 2 * found['relative']
  return (2 * (found['layers'] + relative) + 8 * found['exp']) / 1e9


def _binary(model: Model, shape: tuple[int, ...], variables: Variables) -> float:
  found = count_operations(model, shape, variables)
  elements = 4 * _normalized_elements(model, shape, variables) + found['relu'] + found['pool']
  return (found['layers'] + elements) / 2**30


# The unit of the parameters, and the function that counts the operations in the unit of a table.
CONVENTIONS = {
  'decimal': (1e6, _decimal),
  'binary': (2**20, _binary),
  'two_per_mac': (1e6, _two_per_mac),
  'augmented': (1e6, _augmented),
}


def _normalized_elements(model: Model, shape: tuple[int, ...], variables: Variables) -> int:
  """Elements that pass a batch norm."""
  total = 0

  def count(
    next_call: Callable[..., object],
    args: Sequence[jax.Array],
    kwargs: Mapping[str, object],
    context: nn.module.InterceptorContext,
  ) -> object:
    nonlocal total
    if isinstance(context.module, layers.BatchNorm) and context.method_name == '__call__':
      total += args[0].size
    return next_call(*args, **kwargs)

  images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  with nn.intercept_methods(count):
    jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
  return total
