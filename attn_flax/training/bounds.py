"""Bounds of the fields of a config that no other module checks."""

import functools
from collections.abc import Callable

from attn_flax.errors import MOST_SEED, UserError, check_range
from attn_flax.training.config import Config, TrainConfig
from attn_flax.training.optimizer import MOST_STEPS

_check_count = functools.partial(check_range, least=1, most=MOST_STEPS, whole=True)
_CHECKS: dict[str, Callable[[str, object], None]] = {
  'seed': functools.partial(check_range, least=0, most=MOST_SEED, whole=True),
  'train.ema_decay': functools.partial(check_range, least=0, below=1),
  'train.batch_size': _check_count,
  'train.epochs': _check_count,
  'train.steps': _check_count,
  'train.accumulate': _check_count,
  'eval.batch_size': _check_count,
  'eval.every_epochs': _check_count,
  'checkpoint.every_steps': _check_count,
  'log_every': _check_count,
}


def check_numbers(config: Config) -> None:
  """Checks the numbers of a config that no other module checks; None is always possible.

  Raises:
    UserError: for a number out of its range; names the field.
  """
  for field, check in _CHECKS.items():
    section, _, name = field.rpartition('.')
    fields = config[section] if section else config
    value = fields[name]
    if value is not None:
      check(field, value)


def check_batch(train: TrainConfig, devices: int | None) -> None:
  """Checks that a batch splits into `accumulate` equal parts, and each part over the devices.

  Args:
    train: `config.train`.
    devices: number of devices; None: the batch is not split over them.

  Raises:
    UserError: where it does not.
  """
  if train.batch_size % train.accumulate:
    raise UserError(
      f'train.accumulate={train.accumulate} does not divide train.batch_size={train.batch_size}; '
      'choose a divisor of it'
    )
  size = train.batch_size // train.accumulate
  if devices is not None and size % devices:
    raise UserError(
      f'train.batch_size / train.accumulate = {size} cannot be shared evenly by {devices} '
      f'devices; choose a multiple of {devices}'
    )
