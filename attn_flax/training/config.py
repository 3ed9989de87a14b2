"""The config of a run, as its readers see it: which fields there are, and of what type.

`configs/base.py` says what each means; a test holds the two together. A config is a `ConfigDict` of
ml_collections, which has no types of its own.
"""

import contextlib
import types
import typing
from collections.abc import Collection, ItemsView, Mapping
from typing import Any, Protocol, Self


class Section(Collection[str], Protocol):
  """A part of a config, as the mapping that it is."""

  def get(self, name: str, /) -> Any: ...  # noqa: D102

  def items(self) -> ItemsView[str, Any]: ...  # noqa: D102

  def to_dict(self) -> dict[str, Any]: ...  # noqa: D102

  def copy_and_resolve_references(self) -> Self: ...  # noqa: D102

  def unlocked(self) -> contextlib.AbstractContextManager[object]: ...  # noqa: D102

  def __getitem__(self, name: str) -> Any: ...  # noqa: D105


class ModelConfig(Section, Protocol):
  """`config.model`: these, and the fields of all networks."""

  name: str
  attention: Section
  dtype: str
  num_classes: int | None


class DataConfig(Section, Protocol):
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


class TrainConfig(Section, Protocol):
  """`config.train`."""

  batch_size: int
  epochs: int
  steps: int | None
  accumulate: int
  label_smoothing: float
  clip_norm: float | None
  ema_decay: float | None
  class_weights: bool
  batch_norm: str


class OptimizerConfig(Section, Protocol):
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


class EvalConfig(Section, Protocol):
  """`config.eval`."""

  batch_size: int
  every_epochs: int


class CheckpointConfig(Section, Protocol):
  """`config.checkpoint`."""

  every_steps: int | None


class Config(Section, Protocol):
  """A whole config; `augment` has the fields of `Augmentation` that a user chooses."""

  seed: int
  init_from: str | None
  task: str
  model: ModelConfig
  data: DataConfig
  augment: Section
  train: TrainConfig
  optimizer: OptimizerConfig
  eval: EvalConfig
  checkpoint: CheckpointConfig
  log_every: int


def misfit(stored: Mapping[str, Any], protocol: type = Config, path: str = '') -> str | None:
  """The first field of a stored config whose value is of another type; None: there is no such one.

  Args:
    stored: the config, or a section of it, as JSON holds it; fields may be missing.
    protocol: its type.
    path: where it is in the whole config.
  """
  for name, hint in typing.get_type_hints(protocol).items():
    if name not in stored:
      continue
    value, field = stored[name], f'{path}{name}'
    if Section in getattr(hint, '__mro__', ()):
      if not isinstance(value, Mapping):
        return field
      if inner := misfit(value, hint, f'{field}.'):
        return inner
    elif not any(_fits(value, kind) for kind in _kinds(hint)):
      return field
  return None


def _kinds(hint: Any) -> tuple[Any, ...]:
  return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _fits(value: object, kind: Any) -> bool:
  if typing.get_origin(kind) is tuple:  # JSON has lists alone.
    return isinstance(value, list | tuple) and all(
      _fits(v, typing.get_args(kind)[0]) for v in value
    )
  if kind is float:
    return isinstance(value, int | float) and not isinstance(value, bool)
  return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
