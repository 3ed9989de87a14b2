"""Statistics of a study with several seeds: differences, their intervals, verdicts and power.

A score is a number for each run (seed) and each test image: 1 or 0 for a correct or a wrong
prediction, or the score of an explanation. Seeds and images are both random samples, and every run
scores every image: two crossed random factors. For the mean of the runs' means,

  variance = V_seed + V_image - V_cell,

  V_seed   the variance of the runs' means, divided by the number of runs,
  V_image  the variance over images of each image's contribution to the result, times the number of
           images,
  V_cell   the part of single images in single runs (the variance between runs within an image),
           which both others contain, so that their sum counts it twice.

All three are unbiased, as in the analysis of variance. The sum is never taken to be smaller than
V_seed or V_image, each of which is a lower bound of the true variance. Images are paired: both
arms of a comparison score the same images, so that the difficulty of an image cancels out.
Degrees of freedom are Satterthwaite's, capped where one arm has fewer runs. Where a test finds the
variances between seeds alike, all arms of a study share one, else each has its own; the test is so
strict that of studies with equal arms about one in four shares it. For several variants against one
baseline, the error level is adjusted by Sidak's inequality, which holds for any correlation between
the comparisons; Dunnett's quantile, for variants that share nothing but the baseline, would be
about 5 % smaller.

Sources:
  Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 2007,
    https://arxiv.org/abs/0712.1111: crossed factors need both variances.
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
    https://arxiv.org/abs/2103.03098: one seed, or the variance of images alone, is not enough.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from attn_flax.errors import UserError

# Two runs of an arm estimate a variance too badly for a verdict.
FEWEST_SEEDS = 3
# Level of the test whether all arms have the same variance between seeds. With three runs, a test
# at 5 % misses a baseline with three times the standard deviation of the variants, and at 50 %
# still 7 % of such studies raise a false alarm; at 75 % these, and all other simulated studies,
# stay at about 5 % or below.
_UNLIKE = 0.75


class Verdict(enum.StrEnum):
  """The verdict on a variant's difference to the baseline, as it is printed and stored."""

  BETTER = 'better'
  WORSE = 'worse'
  OPEN = 'no difference shown'  # This does not mean equal, see `detectable`.
  TOO_FEW = 'not enough seeds'


class SeedVariance(NamedTuple):
  """The variance of runs' means between seeds, and its degrees of freedom."""

  variance: float
  df: int


class Estimate(NamedTuple):
  """A mean or a difference of means, with its error.

  Attributes:
    mean: the estimate.
    standard_error: its standard error; NaN where there is no variance between seeds.
    df: degrees of freedom of that error.
    low: lower end of the interval that holds for all comparisons of a study at once; -inf where
      the standard error is not known.
    high: upper end likewise; inf.
    seeds: number of runs; of the arm with fewer runs where there are two.
  """

  mean: float
  standard_error: float
  df: float
  low: float
  high: float
  seeds: int


class _Arm(NamedTuple):
  means: np.ndarray  # [S], of each run.
  influence: np.ndarray  # [n], contribution of each image to the arm's mean, summing to 0.
  cell: float  # V_cell.
  scored: np.ndarray  # [n], whether any run scored the image.


def seed_variance(arms: Sequence[np.ndarray]) -> SeedVariance | None:
  """The variance between seeds, pooled over all arms of a study where they are alike.

  One arm estimates it from a few runs; seven arms of three runs together have 14 degrees of
  freedom. Pooling assumes equal variances: an arm with a larger one would get too small an error,
  and the others too large ones. Where Bartlett's test (Properties of sufficiency and statistical
  tests, Proceedings of the Royal Society A 1937) rejects that, each comparison uses the variances
  of its own two arms.

  Args:
    arms: scores [S, n] of each arm, the baseline among them; NaN where an image was not scored.

  Returns:
    The argument `seeds` of `difference`: None where the variances are not alike.

  Raises:
    UserError: see `difference`.
  """
  means = [_arm(values).means for values in arms]
  known = [runs for runs in means if len(runs) > 1]
  # Arms without variance cannot be tested: the test would divide by zero.
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
  """The mean of `variant` minus that of `baseline`, with an interval over seeds and images.

  Each run has the same weight, and within a run each image that it scored. The images are the same
  in both arms; the seeds are not paired. With n = 1 (one score for each run, such as its
  calibration error) only the seeds count, as in a two-sample t-test.

  Where runs score different images (such as those that they predict correctly), the arms' means are
  over different images; to compare the same images, set those that one arm lacks to NaN in both.

  Args:
    variant: [S1, n] scores, a run in each row; NaN where a run did not score the image. Rows of
      NaN alone (lost runs) are left out.
    baseline: [S2, n] scores, with the same images in its columns.
    seeds: the study's `seed_variance`; None: each arm has its own variance (Welch's t-test).
    comparisons: how many variants the study compares with the baseline.
    confidence: confidence that all intervals of the study hold together.

  Raises:
    UserError: for no scores, infinite ones, or arms with different numbers of images.
  """
  arms = _arm(variant), _arm(baseline)
  images = [len(arm.influence) for arm in arms]
  if images[0] != images[1]:
    raise UserError(
      f'the variant has scores for {images[0]} images and the baseline for {images[1]}; score the'
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
  """The mean of values that are compared with 0, such as a map's score minus that of a control.

  Args:
    values: [S, n], each a difference on one image in one run; NaN where there is none.
    seeds: variance of the runs' means, as `seed_variance` returns it; None: from these runs.
    comparisons: how many such means the study compares with 0.
    confidence: confidence that all intervals of the study hold together.

  Raises:
    UserError: for no values or infinite ones.
  """
  return _estimate((_arm(values),), seeds, comparisons, confidence)


def verdict(estimate: Estimate, *, lower_is_better: bool = False) -> Verdict:
  """The verdict on a difference; it follows from the interval alone, so that the two agree.

  Args:
    estimate: the difference to the baseline.
    lower_is_better: whether a negative difference is an improvement.

  Returns:
    The verdict: `TOO_FEW` where an arm has fewer than three runs, `OPEN` where the interval
    contains 0.
  """
  if estimate.seeds < FEWEST_SEEDS:
    return Verdict.TOO_FEW
  if estimate.low <= 0 <= estimate.high:
    return Verdict.OPEN
  return Verdict.BETTER if (estimate.mean > 0) != lower_is_better else Verdict.WORSE


def detectable(
  standard_error: float,
  df: float,
  comparisons: int = 1,
  *,
  power: float = 0.8,
  confidence: float = 0.95,
) -> float:
  """The smallest true difference that a study with this error finds with a given power.

  By the non-central t distribution. A study with the verdict `OPEN` cannot exclude a
  difference of up to about this size.

  Args:
    standard_error: standard error of the difference.
    df: its degrees of freedom.
    comparisons: as in `difference`.
    power: the share of such studies that find the difference.
    confidence: as in `difference`.

  Returns:
    The difference, in the unit of the standard error; NaN where that is not known.
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
    raise UserError(f'scores have the shape {values.shape}; give scores [seeds, images]')
  scored = ~np.isnan(values)
  is_run = scored.any(1)
  values, scored = values[is_run], scored[is_run]
  if not len(values) or np.isinf(values).any():
    what = 'some scores are infinite' if len(values) else 'no run has scores'
    raise UserError(f'{what}; give a finite number for each image, or NaN where one is missing')
  counts = scored.sum(1, keepdims=True)
  means = np.where(scored, values, 0).sum(1, keepdims=True) / counts
  weights = scored / (counts * len(values))
  residuals = np.where(scored, values - means, 0)
  runs = scored.sum(0)
  # An image that only one run scored gives no estimate of the variance in its cell, and nothing is
  # subtracted for it.
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
  if not all(one.df for one in of_arms):  # An arm of a single run takes the variance of the other.
    of_arms = [_pool([arm.means for arm in arms])] * len(arms)
  if not of_arms[0].df:
    return Estimate(mean, float('nan'), 0, -np.inf, np.inf, fewest)
  influence = np.sum([sign * arm.influence for sign, arm in zip(signs, arms, strict=True)], axis=0)
  images = int(np.any([arm.scored for arm in arms], axis=0).sum())
  # A single image is no sample of images: the result is about this image alone.
  correction = images / (images - 1) if images > 1 else 0
  parts = [one.variance / len(arm.means) for one, arm in zip(of_arms, arms, strict=True)]
  of_seeds = sum(parts)
  of_images = float((influence**2).sum()) * correction
  of_cells = sum(arm.cell for arm in arms) * correction
  variance = max(of_seeds + of_images - of_cells, of_seeds, of_images)
  uncertainty = of_images**2 / max(images - 1, 1)
  if of_arms[0] is of_arms[-1]:  # Both arms share one variance, so its degrees count once.
    uncertainty += of_seeds**2 / of_arms[0].df
  else:
    # Welch and Satterthwaite, but at most twice the degrees of freedom of the smaller arm: where
    # its variance is small by chance, it would get too many of those of the larger arm.
    welch = sum(part**2 / one.df for part, one in zip(parts, of_arms, strict=True))
    uncertainty += max(welch, of_seeds**2 / (2 * min(one.df for one in of_arms)))
  df = variance**2 / uncertainty if uncertainty else float(of_arms[0].df)
  error = variance**0.5
  reach = _quantile(df, comparisons, confidence) * error
  return Estimate(mean, error, df, mean - reach, mean + reach, fewest)


def _quantile(df: float, comparisons: int, confidence: float) -> float:
  """The bound that |t| stays below in all comparisons at once, with at least this confidence."""
  return float(special.stdtrit(df, (1 + confidence ** (1 / comparisons)) / 2))
