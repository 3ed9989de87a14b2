"""The config of a run, as its readers see it: which fields there are, and of what type.

`configs/base.py` says what each means; a test holds the two together. A config is a `ConfigDict` of
ml_collections, which has no types of its own.
"""

import contextlib
from collections.abc import Collection, ItemsView
from typing import Any, Protocol, Self


class Section(Collection[str], Protocol):
  """A part of a config, as the mapping that it is."""

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
