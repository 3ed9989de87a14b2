"""What a study found by explaining its networks: the part of `Findings` about maps and gates."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from attn_flax.study.statistics import Estimate


@dataclasses.dataclass(frozen=True)
class Score:
  """One score of one kind of map of one variant.

  Attributes:
    value: mean over runs and images.
    images: (run, image) pairs that it is the mean of.
    controls: the mean of each control by name ('random map', 'centered Gaussian', 'best fixed map',
      'random weights').
    gains: the score minus each control's, paired on run and image; positive is better than the
      control also where lower scores are better; None where there are too few runs.
    difference: the score minus the baseline's, corrected for the number of variants; None for the
      baseline, for maps that it does not have, and where there are too few runs. Of insertion,
      deletion and ROAD: the score minus the random map's, minus the same of the baseline.
    verdict: of that difference, as in `Performance`.
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
  """Predictions and maps of one run of a variant, on the images of the pictures.

  Attributes:
    seed: of that run.
    cams: [P, h, w] Grad-CAM, not normalized; zeros where it is empty.
    predicted: [P] predicted classes.
    confidence: [P] probability of the predicted class.
    gates: what the mechanism attends with.
  """

  seed: int
  cams: np.ndarray
  predicted: np.ndarray
  confidence: np.ndarray
  gates: Gates
