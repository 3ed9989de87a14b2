"""The types of a run's config: which fields there are, and of what type.

`configs/base.py` says what each field means; a test checks that both have the same fields. A config
is a `ConfigDict` of ml_collections, whose fields have no static types.
"""

import contextlib
import types
import typing
from collections.abc import Collection, ItemsView, Mapping
from typing import Any, Protocol, Self


class ConfigSection(Collection[str], Protocol):
  """A section of a config, as a mapping from field names to values."""

  def get(self, name: str, /) -> Any: ...  # noqa: D102

  def items(self) -> ItemsView[str, Any]: ...  # noqa: D102

  def to_dict(self) -> dict[str, Any]: ...  # noqa: D102

  def copy_and_resolve_references(self) -> Self: ...  # noqa: D102

  def unlocked(self) -> contextlib.AbstractContextManager[object]: ...  # noqa: D102

  def __getitem__(self, name: str) -> Any: ...  # noqa: D105


class ModelConfig(ConfigSection, Protocol):
  """`config.model`; it also has the fields of the networks."""

  name: str
  attention: ConfigSection
  dtype: str
  num_classes: int | None


class DataConfig(ConfigSection, Protocol):
  """`config.data`."""

  name: str
  dir: str | None
  download: bool
  size: int | None
  seed: int
  max_bad: int
  max_pixels: int
  enlarge: bool
  workers: int
  balanced: bool
  normalize: str


class TrainConfig(ConfigSection, Protocol):
  """`config.train`.

  A config may leave `batch_size` and `epochs` None, until `left_open` has chosen them.
  """

  batch_size: int
  epochs: int
  steps: int | None
  accumulate: int
  label_smoothing: float
  clip_norm: float | None
  ema_decay: float | None
  class_weights: bool
  batch_norm: str


class OptimizerConfig(ConfigSection, Protocol):
  """`config.optimizer`."""

  name: str
  lr_per_256: float
  momentum: float
  nesterov: bool
  weight_decay: float
  decay_all: bool
  schedule: str
  warmup_epochs: float
  step_epochs: tuple[float, ...]
  step_factor: float


class EvalConfig(ConfigSection, Protocol):
  """`config.eval`."""

  batch_size: int
  every_epochs: int


class CheckpointConfig(ConfigSection, Protocol):
  """`config.checkpoint`."""

  every_steps: int | None


class Config(ConfigSection, Protocol):
  """A whole config; `augment` has the fields of `Augmentation` that users set."""

  seed: int
  init_from: str | None
  task: str
  model: ModelConfig
  data: DataConfig
  augment: ConfigSection
  train: TrainConfig
  optimizer: OptimizerConfig
  eval: EvalConfig
  checkpoint: CheckpointConfig
  log_every: int


def sections() -> list[str]:
  """The names of a config's sections."""
  hints = typing.get_type_hints(Config)
  return sorted(name for name, hint in hints.items() if _is_section(hint))


def misfit(stored: Mapping[str, object], protocol: type = Config, path: str = '') -> str | None:
  """Finds a field of a stored config whose value has the wrong type.

  Args:
    stored: the config, or a section of it, as read from JSON; fields may be missing.
    protocol: its type, a protocol of this file.
    path: what stands before the field in the whole config, such as 'train.'.

  Returns:
    The first such field, such as 'train.epochs'; None where all types are right.
  """
  for name, hint in typing.get_type_hints(protocol).items():
    if name not in stored:
      continue
    value, field = stored[name], f'{path}{name}'
    if _is_section(hint):
      if not isinstance(value, Mapping):
        return field
      if inner := misfit(value, hint, f'{field}.'):
        return inner
    elif not any(_fits(value, kind) for kind in _kinds(hint)):
      return field
  return None


def _is_section(hint: object) -> bool:
  return isinstance(hint, type) and ConfigSection in hint.__mro__


def _kinds(hint: type | types.UnionType) -> tuple[type, ...]:
  return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _fits(value: object, kind: type) -> bool:
  if typing.get_origin(kind) is tuple:  # JSON stores tuples as lists.
    return isinstance(value, list | tuple) and all(
      _fits(v, typing.get_args(kind)[0]) for v in value
    )
  if kind is float:
    return isinstance(value, int | float) and not isinstance(value, bool)
  return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
