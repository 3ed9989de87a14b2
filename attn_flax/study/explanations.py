"""The part of `Findings` about explanations: scores of maps, and gates for the pictures."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence

import numpy as np

from attn_flax.study.statistics import Estimate


class Kind(enum.StrEnum):
  """The kinds of maps that are scored, as they are printed."""

  GRAD_CAM = 'Grad-CAM'
  OWN_MAP = 'own map'


class Control(enum.StrEnum):
  """The controls that a map is compared with, as they are printed."""

  RANDOM_MAP = 'random map'
  GAUSSIAN = 'centered Gaussian'
  FIXED_MAP = 'best fixed map'
  RANDOM_WEIGHTS = 'random weights'


@dataclasses.dataclass(frozen=True)
class Score:
  """One score of one kind of map of one variant.

  Attributes:
    value: mean over the images of each run, then over the runs.
    images: number of (run, image) pairs.
    controls: the mean of each control by name, see `Control`.
    gains: the score minus each control's, paired by run and image, with the sign that makes a
      positive gain better than the control; None where there are too few runs.
    difference: the score minus the baseline's, corrected for the number of variants; None for the
      baseline, for maps that the baseline does not have, and where there are too few runs. For
      insertion, deletion and ROAD, the score of the random map is subtracted from both first.
    verdict: the verdict on that difference, as in `Performance`.
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
    scores: {kind of map: {score: Score}}, see `Kind` and `SCORES`. A purely channel-wise mechanism
      has no own map.
    empty: share of the Grad-CAM maps that are all zero.
    empty_random: the same for the networks with random weights.
    own_map: what the own map may show, of 'gate' (a spatial gate) and 'received' (attention
      received); empty where there is none.
  """

  scores: Mapping[str, Mapping[str, Score]]
  empty: float
  empty_random: float
  own_map: Sequence[str] = ()


# Each score, and whether higher is better.
SCORES = {
  'pointing': True,
  'energy_mask': True,
  'energy_box': True,
  'iou': True,
  'insertion': True,
  'deletion': False,
  'road': True,
}


@dataclasses.dataclass(frozen=True)
class Gates:
  """The gates and attention weights of one run of a variant.

  Attributes:
    spatial: {path: [P, h, w]} spatial gates and attention received, on the P pictured images.
    channel: {path: [K, C]} mean channel gate over the test images of each class.
    attention: {path: [P, h, w]} attention weights of the query position, mean over the heads.
    query: (y, x) of the query position as shares of height and width.
  """

  spatial: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  channel: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  attention: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  query: tuple[float, float] = (0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Pictured:
  """Predictions and maps of one run of a variant on the P pictured images.

  Attributes:
    seed: the seed of that run.
    cams: [P, h, w] Grad-CAM of the label, not normalized; zeros where it is empty.
    predicted: [P] predicted classes.
    confidence: [P] probability of the predicted class.
    gates: gates and attention weights.
  """

  seed: int
  cams: np.ndarray
  predicted: np.ndarray
  confidence: np.ndarray
  gates: Gates
