"""The types of a study's config; see `training.config` for that of a run.

`configs/presets/study.py` says what each field means; a test checks that both have the same fields.
"""

from typing import Protocol

from attn_flax.training.config import Config, ConfigSection


class SweepConfig(ConfigSection, Protocol):
  """`config.sweep`."""

  lr_per_256: tuple[float, ...] | None
  seed: int


class ReportConfig(ConfigSection, Protocol):
  """`config.report`."""

  images: int | None
  perturbed_images: int
  steps: int
  pictures: int
  query: tuple[float, float]
  rounds: int
  seed: int


class StudyConfig(ConfigSection, Protocol):
  """A whole config; `variants` holds the `model.attention` of each variant, by its name."""

  baseline: str
  base: Config
  variants: ConfigSection
  select: tuple[str, ...] | None
  seeds: tuple[int, ...]
  only: str | None
  sweep: SweepConfig
  report: ReportConfig
