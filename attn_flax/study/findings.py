"""The results of a study, as values on the host: all that a report is made of.

`attn_flax.study` computes them and `attn_flax.report` prints them. Scores and shares lie in 0..1;
times are in seconds or, where the name says so, in milliseconds or minutes.
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
    device: kind of the devices, as JAX names it.
    commit: commit of the source, with '+' where files differed from it.
    python: version of Python.
    packages: {package: version}.
    date: date and time in ISO format.
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
    folder: its run folder.
    command: the command that reproduces it.
    error: why it has no result; '' for a finished run.
    scores: its scores on the test images by name, `task.best` among them; empty without a result.
    curves: what it logged, {split: [(epoch, {score: value})]}, of 'train' and 'validation'.
    trained: the environment that it was trained in; None for a run that has not begun.
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
  """A measured time, and its ratio to the baseline's in each round of timing.

  Attributes:
    median: median over the rounds, in the unit that the field of `Cost` is named by.
    ratio: median over the rounds of the ratio to the baseline; 1 for the baseline itself.
    low: lower quartile of the ratio.
    high: upper quartile of the ratio.
  """

  median: float
  ratio: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Cost:
  """The costs of a variant; all variants were timed in turn, in one process.

  Attributes:
    params: number of parameters.
    macs: multiply-adds of the forward pass of one image.
    step_ms: time of a training step.
    latency_ms: time of a forward pass of one image.
    throughput_ms: time of a forward pass of one evaluation batch.
    train_batch: images per training step.
    eval_batch: images per evaluation batch.
    peak_mb: peak memory of the compiled training step, in 10^6 bytes.
    compile_seconds: time to compile the training step.
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
  """A mean over runs and the standard deviation between them, None for a single run."""

  value: float
  spread: float | None


@dataclasses.dataclass(frozen=True)
class Performance:
  """How well a variant does on the test images.

  Attributes:
    seeds: number of finished runs.
    best: the score `task.best` over the runs.
    further: the task's other scores over the runs, by name.
    difference: `best` minus the baseline's, corrected for the number of variants; None for the
      baseline, and where there are too few runs.
    verdict: a `statistics.Verdict`, or '' for the baseline.
    detectable: the smallest true difference that the study finds with 80 % power; None where no
      possible difference is large enough, and without a `difference`.
    arrays: summaries of the task, such as confusion matrices, by name: [seeds, ...].
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
  """An attention mechanism of a network, and its place.

  Attributes:
    name: its name in `attn_flax.attention`, or that of its class.
    where: the place in a block or stage, one of `models.placement.PLACES`.
    stages: the stages where it acts, counted from 1.
    every: it acts in every block (1), every second one (2), and so on.
    start: 'paper', as the mechanism starts by itself, or 'identity'.
    fields: its fields that differ from their defaults, and the parts of a hybrid.
    attends: False for an augmented convolution without attention features (`upsilon` = 0).
  """

  name: str
  where: str
  stages: Sequence[int]
  every: int = 1
  start: str = 'paper'
  fields: Mapping[str, object] = dataclasses.field(default_factory=dict)
  attends: bool = True


class Shares(NamedTuple):
  """Dimensions of an augmented convolution: of its keys, its values, and its whole output."""

  keys: int
  values: int
  features: int


@dataclasses.dataclass(frozen=True)
class Variant:
  """One network of the study, with all its runs.

  Attributes:
    name: its name.
    runs: its runs, one per seed.
    mechanisms: its attention mechanisms; None where no run could be opened.
    shares: dimensions of its augmented convolutions, by stage.
    performance: its scores; None where no run has finished.
    cost: its costs; None where it was not timed.
    explanations: scores of its maps; None where none were scored.
    pictured: predictions and maps of one run; None where none were made.
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
    updates: number of updates.
    epochs: passes over the training images.
    batch_size: images per update.
    optimizer: name of the optimizer.
    lr_per_256: peak learning rate per 256 images of a batch.
    swept: that learning rate by variant, where a sweep chose it; None otherwise.
    schedule: name of the learning-rate schedule.
    warmup_epochs: epochs of linear warm-up.
    weight_decay: weight decay of the optimizer.
    moving_average: whether the evaluated weights are a moving average.
    further: other fields of the config that have an effect, {field: value}.
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
  """What the results depend on besides the attention.

  Attributes:
    network: name of the network.
    dtype: data type of its computations.
    side: height and width of the images in pixels.
    examples: number of images in each split.
    recipe: how the runs were trained.
    measured: the environment in which the runs were evaluated, timed and explained.
    command: the command that did so.
    minutes: how long that took.
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
    conditions: what the results depend on besides the attention.
    images: [P, H, W, 3] uint8, the pictured images.
    labels: [P] int, their labels.
    masks: [P, H, W] bool, the masks of their objects; None for a dataset without masks.
    localized_images: {seed: number of images} of the localization scores.
    perturbed_images: {seed: number of images} of insertion, deletion and ROAD.
    unexplained: seeds without a test image that all variants predict correctly.
    steps: number of steps of insertion and deletion.
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

  @property
  def trained(self) -> list[Environment]:
    """The environment that each run was trained in, of the runs that have begun."""
    return [run.trained for variant in self.variants for run in variant.runs if run.trained]
