"""What a study with several seeds shows: differences, their intervals, verdicts and power.

A score is a number for each run (seed) and each test image: 1 or 0 for a correct or wrong answer,
or the score of an explanation. Both the seeds and the images are drawn by chance, and every seed
meets every image: two crossed random factors. For the mean of the runs' means,

  variance = V_seed + V_image - V_cell,

  V_seed   the variance of the runs' means over the number of runs,
  V_image  the variance over images of what each image adds to the result, times their number,
  V_cell   the chance of a single image in a single run (its variance within an image, between
           runs), which is part of both others and therefore counted twice.

All three are unbiased, as in the analysis of variance. The sum is never taken to be smaller than
V_seed or V_image, each of which is a lower bound of the true variance. Images are paired: both
arms of a comparison score the same images, and what makes an image hard for all drops out.
Degrees of freedom are Satterthwaite's, capped where one arm has fewer runs. Where the arms of a
study look equally unsteady, they share one variance between seeds, else each has its own; the level
is so strict that of studies of equal arms about one in four shares it. Several variants against one
baseline share the error level by Sidak's inequality, which is valid for any correlation between the
comparisons; Dunnett's quantile, for variants that share nothing but the baseline, would be about
5 % smaller.

Sources:
  Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 2007,
    https://arxiv.org/abs/0712.1111: why crossed factors need both variances.
  Cameron, Gelbach and Miller, Robust Inference with Multiway Clustering, Journal of Business and
    Economic Statistics 2011, https://doi.org/10.1198/jbes.2010.07136: the sum of the two minus the
    cell's. Their cell term would include the variance of the images here, and subtract too much.
  Satterthwaite, An Approximate Distribution of Estimates of Variance Components, Biometrics
    Bulletin 1946, https://doi.org/10.2307/3002019.
  Sidak, Rectangular Confidence Regions for the Means of Multivariate Normal Distributions, JASA
    1967, https://doi.org/10.1080/01621459.1967.10482935.
  Dunnett, A Multiple Comparison Procedure for Comparing Several Treatments with a Control, JASA
    1955, https://doi.org/10.1080/01621459.1955.10501294.
  Bouthillier et al., Accounting for Variance in Machine Learning Benchmarks, MLSys 2021,
    https://arxiv.org/abs/2103.03098: why one seed, or images alone, show too little.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from attn_flax.errors import UserError

# With two runs of an arm a variance is known so badly that a verdict would be a guess.
FEWEST_SEEDS = 3
# Level of the test whether arms are equally unsteady. With three runs a test at 5 % overlooks a
# baseline of three times the variants' deviation, and at 50 % still 7 % of such studies raise a
# false alarm; at 75 % these, and all others that were simulated, stay at about 5 % or below.
_UNLIKE = 0.75


class SeedVariance(NamedTuple):
  """The variance of runs' means between seeds, and its degrees of freedom."""

  variance: float
  df: int


class Estimate(NamedTuple):
  """A mean or a difference of means, and how well it is known.

  `low` and `high` bound the interval that covers all comparisons of a study at once with the
  confidence asked for. `seeds` is the number of runs, of the smaller arm where there are two.
  Where no variance between seeds is known, `standard_error` is NaN and the interval infinite.
  """

  mean: float
  standard_error: float
  df: float
  low: float
  high: float
  seeds: int


class _Arm(NamedTuple):
  means: np.ndarray  # [S], of each run.
  influence: np.ndarray  # [n], what each image adds to the arm's mean.
  cell: float  # V_cell.
  scored: np.ndarray  # [n], whether any run scored the image.


def seed_variance(arms: Sequence[np.ndarray]) -> SeedVariance | None:
  """The variance between seeds that all arms of a study share, where they do share one.

  Each arm alone estimates it from a few runs; seven arms of three runs together have 14 degrees of
  freedom. Sharing assumes that the arms are equally unsteady: an unsteadier one would get too small
  an error, and give the others too large ones. Where Bartlett's test (Properties of sufficiency and
  statistical tests, Proceedings of the Royal Society A 1937) speaks against that, each comparison
  uses its own two arms alone.

  Args:
    arms: scores [S, n] of each arm, the baseline among them; NaN: not scored.

  Returns:
    What `difference` takes: None where the arms are not alike.

  Raises:
    UserError: see `difference`.
  """
  means = [_arm(values).means for values in arms]
  known = [runs for runs in means if len(runs) > 1]
  # Without any variance there is nothing to compare, and the test would divide by zero.
  spread = [runs.var() > 0 for runs in known]
  if len(known) > 1 and any(spread):
    if not all(spread) or stats.bartlett(*known).pvalue < _UNLIKE:
      return None
  return _pool(means)


def difference(
  variant: np.ndarray,
  baseline: np.ndarray,
  *,
  seeds: SeedVariance | None = None,
  comparisons: int = 1,
  confidence: float = 0.95,
) -> Estimate:
  """The mean of `variant` minus that of `baseline`, with the chance of seeds and of images.

  Each run counts alike, and within a run each image that it scored. The images are the same in
  both arms, the seeds are not paired. With n = 1 (one score for each run, such as its calibration
  error) only the seeds count, and this is the two-sample t-test with a pooled variance.

  Where runs score different images (such as those that they classify correctly), the arms' means
  are about different images; set to NaN what one of them lacks to compare like with like.

  Args:
    variant: [S1, n] scores, a run in each row; NaN where a run did not score the image. Rows of
      NaN alone (lost runs) are left out.
    baseline: [S2, n], its columns the same images.
    seeds: the study's `seed_variance`; None: each arm has its own (Welch's t-test).
    comparisons: how many variants the study compares with the baseline.
    confidence: of all the study's intervals together.

  Raises:
    UserError: no scores, infinite ones, or arms with different numbers of images.
  """
  arms = _arm(variant), _arm(baseline)
  images = [len(arm.influence) for arm in arms]
  if images[0] != images[1]:
    raise UserError(
      f'the variant has scores of {images[0]} images and the baseline of {images[1]}; score the'
      ' same images in the same order, with NaN where one is missing'
    )
  return _estimate(arms, seeds, comparisons, confidence)


def paired(
  values: np.ndarray,
  *,
  seeds: SeedVariance | None = None,
  comparisons: int = 1,
  confidence: float = 0.95,
) -> Estimate:
  """The mean of values that are compared with 0, such as a method's score minus a control's.

  Args:
    values: [S, n], each a difference on one image in one run; NaN where there is none.
    seeds: variance of the runs' means, as of `seed_variance`; None: from these runs.
    comparisons: how many such means the study compares with 0.
    confidence: of all the study's intervals together.

  Raises:
    UserError: no values or infinite ones.
  """
  return _estimate((_arm(values),), seeds, comparisons, confidence)


def verdict(estimate: Estimate, *, lower_is_better: bool = False) -> str:
  """What an estimate shows; it follows from the interval alone, so that the two always agree.

  Returns:
    'better', 'worse', 'no difference shown' (which is not: 'equal'; see `detectable`), or
    'not enough seeds' where an arm has fewer than three.
  """
  if estimate.seeds < FEWEST_SEEDS:
    return 'not enough seeds'
  if estimate.low <= 0 <= estimate.high:
    return 'no difference shown'
  return 'better' if (estimate.mean > 0) != lower_is_better else 'worse'


def detectable(
  standard_error: float,
  df: float,
  comparisons: int = 1,
  *,
  power: float = 0.8,
  confidence: float = 0.95,
) -> float:
  """The true difference that a study with this error would have found, had there been one.

  By the non-central t distribution; in the units of the standard error. A study with the verdict
  'no difference shown' cannot exclude a difference of up to about this size.

  Args:
    standard_error: of the difference.
    df: its degrees of freedom.
    comparisons: as in `difference`.
    power: the share of such studies that would find it.
    confidence: as in `difference`.

  Returns:
    NaN where the standard error is not known.
  """
  if not (standard_error >= 0 and df > 0):
    return float('nan')
  bound = _quantile(df, comparisons, confidence)
  shift = optimize.brentq(
    lambda shift: stats.nct.sf(bound, df, shift) - power, 0, 4 * (bound + 10), xtol=1e-6
  )
  return float(standard_error * shift)


def _arm(values: np.ndarray) -> _Arm:
  values = np.asarray(values, np.float64)
  if values.ndim != 2:
    raise UserError(f'scores have shape {values.shape}; allowed: [seeds, images]')
  scored = ~np.isnan(values)
  is_run = scored.any(1)
  values, scored = values[is_run], scored[is_run]
  if not len(values) or np.isinf(values).any():
    what = 'are infinite' if len(values) else 'are missing in every run'
    raise UserError(f'scores {what}; give a finite number for each image, or NaN where it has none')
  counts = scored.sum(1, keepdims=True)
  means = np.where(scored, values, 0).sum(1, keepdims=True) / counts
  weights = scored / (counts * len(values))
  residuals = np.where(scored, values - means, 0)
  runs = scored.sum(0)
  # An image that only one run scored gives no estimate of its cell's variance, and none is
  # subtracted.
  centered = np.where(scored, residuals - residuals.sum(0) / np.maximum(runs, 1), 0)
  spread = (centered**2).sum(0) / np.maximum(runs - 1, 1)
  cell = (spread * (weights**2).sum(0)).sum()
  return _Arm(means[:, 0], (weights * residuals).sum(0), float(cell), runs > 0)


def _pool(means: Sequence[np.ndarray]) -> SeedVariance:
  squares = sum(float(((runs - runs.mean()) ** 2).sum()) for runs in means)
  df = sum(len(runs) - 1 for runs in means)
  return SeedVariance(squares / df if df else float('nan'), df)


def _estimate(
  arms: Sequence[_Arm], seeds: SeedVariance | None, comparisons: int, confidence: float
) -> Estimate:
  """The mean of one arm, or of the first minus the second."""
  signs = (1, -1)[: len(arms)]
  mean = float(sum(sign * arm.means.mean() for sign, arm in zip(signs, arms, strict=True)))
  fewest = min(len(arm.means) for arm in arms)
  of_arms = [seeds or _pool([arm.means]) for arm in arms]
  if not all(one.df for one in of_arms):  # An arm of a single run borrows from the other.
    of_arms = [_pool([arm.means for arm in arms])] * len(arms)
  if not of_arms[0].df:
    return Estimate(mean, float('nan'), 0, -np.inf, np.inf, fewest)
  influence = np.sum([sign * arm.influence for sign, arm in zip(signs, arms, strict=True)], axis=0)
  images = int(np.any([arm.scored for arm in arms], axis=0).sum())
  # A single image is no sample of images: the result is about this one.
  correction = images / (images - 1) if images > 1 else 0
  parts = [one.variance / len(arm.means) for one, arm in zip(of_arms, arms, strict=True)]
  of_seeds = sum(parts)
  of_images = float((influence**2).sum()) * correction
  of_cells = sum(arm.cell for arm in arms) * correction
  variance = max(of_seeds + of_images - of_cells, of_seeds, of_images)
  uncertainty = of_images**2 / max(images - 1, 1)
  if of_arms[0] is of_arms[-1]:  # One variance, known once.
    uncertainty += of_seeds**2 / of_arms[0].df
  else:
    # Welch and Satterthwaite, but at most twice the smaller arm's degrees of freedom: where its
    # variance is small by chance, the larger arm would lend it too many.
    welch = sum(part**2 / one.df for part, one in zip(parts, of_arms, strict=True))
    uncertainty += max(welch, of_seeds**2 / (2 * min(one.df for one in of_arms)))
  df = variance**2 / uncertainty if uncertainty else float(of_arms[0].df)
  error = variance**0.5
  reach = _quantile(df, comparisons, confidence) * error
  return Estimate(mean, error, df, mean - reach, mean + reach, fewest)


def _quantile(df: float, comparisons: int, confidence: float) -> float:
  """The bound of |t| in all comparisons at once, with at least this confidence."""
  return float(special.stdtrit(df, (1 + confidence ** (1 / comparisons)) / 2))
