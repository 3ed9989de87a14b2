"""The config of a study, as its readers see it; see `training.config` for that of a run.

`configs/presets/study.py` says what each field means; a test holds the two together.
"""

from typing import Protocol

from attn_flax.training.config import Config, Section


class SweepConfig(Section, Protocol):
  """`config.sweep`."""

  lr_per_256: tuple[float, ...] | None
  seed: int


class ReportConfig(Section, Protocol):
  """`config.report`."""

  images: int | None
  perturbed_images: int
  steps: int
  pictures: int
  query: tuple[float, float]
  rounds: int
  seed: int


class StudyConfig(Section, Protocol):
  """A whole config; `variants` holds what `config.model.attention` is in each."""

  baseline: str
  base: Config
  variants: Section
  select: tuple[str, ...] | None
  seeds: tuple[int, ...]
  only: str | None
  sweep: SweepConfig
  report: ReportConfig
