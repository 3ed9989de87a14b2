"""What a study found: plain values on the host, all that a report is made of.

`attn_flax.study` fills these in; the other files of this package only read them.
Scores and shares lie in 0..1, times are in seconds or, where the name says so, in milliseconds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_flax.study.statistics import Estimate


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run.

  Attributes:
    variant: name of its variant.
    seed: its seed.
    folder: its run folder, as it was named on the command line.
    command: the command that makes it again.
    error: why it has no result; empty for a finished run.
    top1: share of the test images that are classified correctly; None without a result.
    top5: share whose class is among the five likeliest; likewise, and with five classes or fewer.
    curves: what it logged, by split ('train', 'validation'): [(epoch, {'loss': ..., 'top1': ...})].
  """

  variant: str
  seed: int
  folder: str
  command: str
  error: str = ''
  top1: float | None = None
  top5: float | None = None
  curves: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]] = dataclasses.field(
    default_factory=dict
  )


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


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """How well a variant classifies the test images.

  Attributes:
    seeds: number of finished runs.
    top1: mean over the runs.
    top1_spread: standard deviation between the runs; None for a single one.
    top5: mean over the runs; None with five classes or fewer.
    top5_spread: its standard deviation between the runs; None likewise, and for a single one.
    difference: top-1 less the baseline's, corrected for the number of variants; None for the
      baseline, and where there are too few runs.
    verdict: 'better', 'worse', 'no difference shown', 'not enough seeds', or '' for the baseline.
    detectable: the difference that the study would have found in four of five cases; None where
      that would take more than 100 points.
    per_class: [K] share classified correctly, mean over the runs; NaN for a class without images.
    calibration_error: expected calibration error, mean over the runs.
    calibration_spread: its standard deviation between the runs; None for a single one.
    confusion: [K, K] counts of all runs; rows are labels, columns predictions.
  """

  seeds: int
  top1: float
  top1_spread: float | None
  top5: float | None
  top5_spread: float | None
  difference: Estimate | None
  verdict: str
  detectable: float | None
  per_class: np.ndarray
  calibration_error: float
  calibration_spread: float | None
  confusion: np.ndarray


@dataclasses.dataclass(frozen=True)
class Score:
  """One score of one kind of map of one variant.

  Attributes:
    value: mean over runs and images.
    images: (run, image) pairs that it is the mean of.
    controls: the mean of each control by name ('random map', 'centred Gaussian', 'best fixed map',
      'random weights').
    gains: the score less each control's, paired on run and image; positive is better than the
      control also where lower scores are better; None where there are too few runs.
    difference: the score less the baseline's, corrected for the number of variants; None for the
      baseline, for maps that it does not have, and where there are too few runs. Of insertion,
      deletion and ROAD: the score less the random map's, less the same of the baseline.
    verdict: of that difference, as in `Accuracy`.
  """

  value: float
  images: int
  controls: Mapping[str, float]
  gains: Mapping[str, Estimate | None]
  difference: Estimate | None = None
  verdict: str = ''


@dataclasses.dataclass(frozen=True)
class Explanations:
  """Scores of a variant's maps.

  Attributes:
    scores: {kind of map: {score: Score}}; kinds are 'Grad-CAM' and 'own map'; scores are keys of
      `SCORES`. A purely channel-wise mechanism has no own map.
    empty: share of the Grad-CAM maps that are all zero.
    empty_random: the same of the networks with random weights.
    own_map: what the own map is, in words; '' where there is none.
  """

  scores: Mapping[str, Mapping[str, Score]]
  empty: float
  empty_random: float
  own_map: str = ''


# Score: (its title, whether higher is better).
SCORES = {
  'pointing': ('pointing game', True),
  'energy_mask': ('energy inside the mask', True),
  'energy_box': ('energy inside the box', True),
  'iou': ('IoU at the best threshold', True),
  'insertion': ('insertion AUC', True),
  'deletion': ('deletion AUC', False),
  'road': ('ROAD', True),
}


@dataclasses.dataclass(frozen=True)
class Gates:
  """What a variant's mechanism attends with, on the images of the pictures.

  Attributes:
    spatial: {path: [P, h, w]} spatial gates, or attention received.
    channel: {path: [K, C]} mean channel gate of each class over the test images.
    attention: {path: [P, h, w]} mean weight over the heads from the query position.
    query: (y, x) of that query as shares of height and width.
  """

  spatial: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  channel: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  attention: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  query: tuple[float, float] = (0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Pictured:
  """What one run of a variant says about the images of the pictures.

  Attributes:
    seed: of that run.
    cams: [P, h, w] Grad-CAM, not normalised; zeros where it is empty.
    predicted: [P] predicted classes.
    confidence: [P] probability of the predicted class.
    gates: what the mechanism attends with.
  """

  seed: int
  cams: np.ndarray
  predicted: np.ndarray
  confidence: np.ndarray
  gates: Gates


@dataclasses.dataclass(frozen=True)
class Variant:
  """One network of the study.

  Attributes:
    name: its name.
    mechanism: what it attends with and where, in words.
    runs: its runs, by seed.
    accuracy: None where no run has finished, like what follows.
    cost: its costs.
    explanations: scores of its maps.
    pictured: its pictures, of one run.
    published: rows of `published.csv` about its mechanism.
  """

  name: str
  mechanism: str
  runs: Sequence[Run]
  accuracy: Accuracy | None = None
  cost: Cost | None = None
  explanations: Explanations | None = None
  pictured: Pictured | None = None
  published: Sequence[Mapping[str, str]] = ()


@dataclasses.dataclass(frozen=True)
class Findings:
  """A whole study.

  Attributes:
    title: of the report.
    baseline: name of the variant that the others are compared with.
    variants: all variants, the baseline first.
    dataset: name of the dataset.
    test_images: number of test images.
    class_names: names of the classes.
    conditions: what else the results depend on, name to value, in the order of printing: dataset,
      network, recipe, seeds, device, dtype, versions, commit, command, date.
    images: [P, H, W, 3] uint8, the images of the pictures.
    labels: [P] their labels.
    masks: [P, H, W] bool, their masks; None for a dataset without.
    localised_images: images, per seed, that the localisation scores are over.
    perturbed_images: images, per seed, that insertion, deletion and ROAD are over.
    steps: steps of insertion and deletion.
    notes: sentences that belong above the tables: where multiply-adds and milliseconds disagree,
      runs that failed, scores that are missing.
  """

  title: str
  baseline: str
  variants: Sequence[Variant]
  dataset: str
  test_images: int
  class_names: Sequence[str]
  conditions: Mapping[str, Any]
  images: np.ndarray
  labels: np.ndarray
  masks: np.ndarray | None
  localised_images: Mapping[int, int] = dataclasses.field(default_factory=dict)
  perturbed_images: Mapping[int, int] = dataclasses.field(default_factory=dict)
  steps: int = 10
  notes: Sequence[str] = ()
