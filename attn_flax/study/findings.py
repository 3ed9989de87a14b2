"""What a study found: plain values on the host, all that a report is made of, and no prose.

`attn_flax.study` fills these in, and `attn_flax.report` reads them. Scores and shares lie in 0..1,
times are in seconds or, where the name says so, in milliseconds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from attn_flax.study.explanations import Explanations, Pictured
from attn_flax.study.statistics import Estimate
from attn_flax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Environment:
  """Where, when and with what something was computed; None for what is not known.

  Attributes:
    device: kind of the device.
    commit: of the source, with '+' where files differed from it.
    python: its version.
    packages: their versions.
    date: and time, in ISO format.
    device_count: number of devices.
    cpu_count: number of CPU cores.
  """

  device: str | None = None
  commit: str | None = None
  python: str | None = None
  packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
  date: str | None = None
  device_count: int | None = None
  cpu_count: int | None = None


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run.

  Attributes:
    variant: name of its variant.
    seed: its seed.
    folder: its run folder, as it was named on the command line.
    command: the command that makes it again.
    error: why it has no result; empty for a finished run.
    scores: its scores on the test images by name, `task.best` among them; empty without a result.
    curves: what it logged, by split ('train', 'validation'): [(epoch, {score: value})].
    trained: where it was trained; None for a run that has not begun.
  """

  variant: str
  seed: int
  folder: str
  command: str
  error: str = ''
  scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
  curves: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]] = dataclasses.field(
    default_factory=dict
  )
  trained: Environment | None = None


@dataclasses.dataclass(frozen=True)
class Ratio:
  """A measured cost: the median, and how it compares with the baseline's, round by round.

  Attributes:
    median: in the unit that the name of the field says.
    ratio: median of the ratio to the baseline, 1 for the baseline itself.
    low: lower quartile of the ratio.
    high: upper quartile.
  """

  median: float
  ratio: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a variant costs; the timings of all variants were taken in turn, in one process.

  Attributes:
    params: number of parameters.
    macs: multiply-adds of one image's forward pass.
    step_ms: a training step.
    latency_ms: a forward pass of one image.
    throughput_ms: a forward pass of one evaluation batch.
    train_batch: images of a training step.
    eval_batch: images of an evaluation batch.
    peak_mb: 10^6 bytes that the compiled training step holds at most.
    compile_seconds: of the training step.
  """

  params: int
  macs: int
  step_ms: Ratio
  latency_ms: Ratio
  throughput_ms: Ratio
  train_batch: int
  eval_batch: int
  peak_mb: float
  compile_seconds: float


class Mean(NamedTuple):
  """A mean over runs, and their standard deviation; None for a single run."""

  value: float
  spread: float | None


@dataclasses.dataclass(frozen=True)
class Performance:
  """How well a variant does on the test images, by the score that the task is judged by.

  Attributes:
    seeds: number of finished runs.
    best: `task.best` over the runs.
    further: the task's other scores, by name.
    difference: `best` minus the baseline's, corrected for the number of variants; None for the
      baseline, and where there are too few runs.
    verdict: 'better', 'worse', 'no difference shown', 'not enough seeds', or '' for the baseline.
    detectable: the true difference that the study would have found in four of five cases; None
      where that would take more than 100 points.
    arrays: what the task itself summarizes, by name: [seeds, ...], one entry for each run.
  """

  seeds: int
  best: Mean
  further: Mapping[str, Mean]
  difference: Estimate | None
  verdict: str
  detectable: float | None
  arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Mechanism:
  """What a network attends with, and where.

  Attributes:
    name: in `attn_flax.attention`, or of its class.
    where: the place in a block or stage, one of `models.placement.PLACES`.
    stages: the stages where it acts, counted from 1.
    every: it acts in every so many blocks.
    start: 'paper', as the mechanism starts, or 'identity'.
    fields: its fields that differ from the usual ones, and what a hybrid is made of.
    attends: whether it attends with anything; an augmented convolution may have no attention.
  """

  name: str
  where: str
  stages: Sequence[int]
  every: int = 1
  start: str = 'paper'
  fields: Mapping[str, object] = dataclasses.field(default_factory=dict)
  attends: bool = True


class Shares(NamedTuple):
  """How many features of an augmented convolution are attention: keys, values, and all."""

  keys: int
  values: int
  features: int


@dataclasses.dataclass(frozen=True)
class Variant:
  """One network of the study.

  Attributes:
    name: its name.
    runs: its runs, by seed.
    mechanisms: what it attends with; None where no run could be opened.
    shares: of its augmented convolutions, by stage.
    performance: None where no run has finished, like what follows.
    cost: its costs.
    explanations: scores of its maps.
    pictured: its pictures, of one run.
  """

  name: str
  runs: Sequence[Run]
  mechanisms: Sequence[Mechanism] | None = None
  shares: Mapping[int, Shares] = dataclasses.field(default_factory=dict)
  performance: Performance | None = None
  cost: Cost | None = None
  explanations: Explanations | None = None
  pictured: Pictured | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the runs of a study were trained.

  Attributes:
    updates: number of them.
    epochs: passes over the training images.
    batch_size: images of one update.
    optimizer: its name.
    lr_per_256: learning rate per 256 images.
    swept: the same by variant, where a sweep chose it; None otherwise.
    schedule: of the learning rate.
    warmup_epochs: epochs over which it rises.
    weight_decay: of the optimizer.
    moving_average: whether the weights are a moving average.
    further: other fields of the config that have an effect.
  """

  updates: int
  epochs: float
  batch_size: int
  optimizer: str
  lr_per_256: float
  swept: Mapping[str, float] | None
  schedule: str
  warmup_epochs: float
  weight_decay: float
  moving_average: bool
  further: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Conditions:
  """What the results depend on beside the attention.

  Attributes:
    network: its name.
    dtype: of its computations.
    side: height and width of the images.
    examples: number of images of each split.
    recipe: how the runs were trained.
    measured: where the study was measured.
    command: that measured it.
    minutes: that measuring took.
  """

  network: str
  dtype: str
  side: int
  examples: Mapping[str, int]
  recipe: Recipe
  measured: Environment
  command: str
  minutes: float


@dataclasses.dataclass(frozen=True)
class Findings:
  """A whole study.

  Attributes:
    task: what the networks learn.
    baseline: name of the variant that the others are compared with.
    variants: all variants, the baseline first.
    dataset: name of the dataset.
    class_names: names of the classes.
    conditions: what the results depend on beside the attention.
    images: [P, H, W, 3] uint8, the images of the pictures.
    labels: [P] their labels.
    masks: [P, H, W] bool, their masks; None for a dataset without.
    localized_images: images, per seed, that the localization scores are over.
    perturbed_images: images, per seed, that insertion, deletion and ROAD are over.
    unexplained: seeds without a test image that all their variants answer correctly.
    steps: steps of insertion and deletion.
  """

  task: Task
  baseline: str
  variants: Sequence[Variant]
  dataset: str
  class_names: Sequence[str]
  conditions: Conditions
  images: np.ndarray
  labels: np.ndarray
  masks: np.ndarray | None
  localized_images: Mapping[int, int] = dataclasses.field(default_factory=dict)
  perturbed_images: Mapping[int, int] = dataclasses.field(default_factory=dict)
  unexplained: Sequence[int] = ()
  steps: int = 10

  @property
  def test_images(self) -> int:
    """Number of test images."""
    return self.conditions.examples['test']
