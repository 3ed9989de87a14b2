"""Statistics of studies: closed forms where they exist, else simulated studies with known truth.

The simulated studies have networks of about 85 % accuracy. Their runs have a standard deviation of
0.7 points, and two runs disagree in their correctness on about 10 % of the images.
"""

import numpy as np
import pytest
from scipy import stats

from attn_flax.errors import UserError
from attn_flax.study import statistics

STUDIES = 1000
# Three standard errors of a share of 5 % in so many studies.
SLACK = 3 * (0.05 * 0.95 / STUDIES) ** 0.5


def simulate(rng, runs, n, shifts=None, own_images=0.0):
  """Correctness [S, n] of each arm; the logits of arm a are shifted by shifts[a].

  The images' difficulty is logit-normal and shared by all arms; each run has a shift of its own and
  a disturbance on each image, and the outcome is a draw with the probability that results.
  """
  difficulty = rng.normal(5.5, 5, n).astype(np.float32)
  arms = []
  for arm, seeds in enumerate(runs):
    run = rng.normal(0, 0.16, (seeds, 1)) + (shifts[arm] if shifts else 0)
    logits = difficulty + run.astype(np.float32) + rng.standard_normal((seeds, n), np.float32)
    if own_images:  # The arms differ in which images they find hard.
      logits += (own_images * rng.standard_normal(n)).astype(np.float32)
    arms.append(rng.random((seeds, n), np.float32) * (1 + np.exp(-logits)) < 1)
  return arms


def compare(arms):
  """Estimates of each variant against the first arm, as a study makes them."""
  seeds = statistics.seed_variance(arms)
  options = {'seeds': seeds, 'comparisons': len(arms) - 1}
  return [statistics.difference(variant, arms[0], **options) for variant in arms[1:]]


def crossed(rng, runs, n, seed_sd=1.0, image_sd=3.0, cell_sd=2.0):
  """Normal scores [S, n] of several arms, of expectation 0, with images in common."""
  images = rng.normal(0, image_sd, n)
  return [
    images + rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, cell_sd, (seeds, n))
    for seeds in runs
  ]


def test_the_simulated_world_is_what_it_says():
  rng = np.random.default_rng(0)
  (runs,) = simulate(rng, [400], 20000)
  disagree = (runs[::2] != runs[1::2]).mean()
  assert 0.84 < runs.mean() < 0.86
  assert 0.09 < disagree < 0.11
  seed_variance = runs.mean(1).var(ddof=1) - disagree / 2 / 20000
  assert 0.0065 < seed_variance**0.5 < 0.0075


@pytest.mark.parametrize(
  ('runs', 'n', 'own_images'),
  [
    ([3] * 7, 2000, 0.0),
    ([5] * 7, 2000, 0.0),
    ([3] * 7, 500, 0.0),
    ([5] * 7, 500, 0.0),
    ([5] * 6 + [4], 500, 0.0),  # One run of a variant is missing,
    ([4] + [5] * 6, 500, 0.0),  # or one of the baseline.
    ([10] + [3] * 6, 500, 0.0),  # Variants with fewer runs than the baseline.
    ([3] * 7, 500, 2.0),  # Equally good, but not on the same images.
  ],
)
def test_equal_networks_are_not_told_apart(runs, n, own_images):
  """In 95 % of studies no variant of six differs from the baseline."""
  rng = np.random.default_rng(n + sum(runs))
  false = 0
  for _ in range(STUDIES):
    estimates = compare(simulate(rng, runs, n, own_images=own_images))
    false += any(statistics.verdict(x) != 'no difference shown' for x in estimates)
  assert false / STUDIES <= 0.05 + SLACK
  assert false  # Intervals that always contain 0 would be too wide.


def images_only(variant, baseline, comparisons):
  """A paired test over images, as if other seeds would give the same runs."""
  gap = variant.mean(0) - baseline.mean(0)
  return stats.ttest_1samp(gap, 0).pvalue < 1 - 0.95 ** (1 / comparisons)


@pytest.mark.parametrize('seeds', [3, 5])
def test_an_estimator_without_seeds_breaks_the_level(seeds):
  """This shows that the test above can fail."""
  rng = np.random.default_rng(1)
  false = 0
  for _ in range(300):
    arms = simulate(rng, [seeds] * 7, 2000)
    false += any(images_only(variant, arms[0], 6) for variant in arms[1:])
  assert false / 300 > 2 * (0.05 + SLACK)


@pytest.mark.parametrize('factor', [2, 3])
@pytest.mark.parametrize('runs', [[3] * 7, [5] * 7, [10] + [3] * 6])
def test_an_unsteady_baseline_raises_no_false_alarms(runs, factor):
  rng = np.random.default_rng(sum(runs))
  false = 0
  for _ in range(STUDIES):
    arms = [rng.normal(0, 1, (seeds, 1)) for seeds in runs]
    arms[0] *= factor
    false += any(statistics.verdict(x) != 'no difference shown' for x in compare(arms))
  assert false / STUDIES <= 0.05 + SLACK
  assert false


@pytest.mark.parametrize('factor', [3, 10])
@pytest.mark.parametrize('seeds', [3, 5])
def test_an_unsteady_arm_neither_raises_false_alarms_nor_hides_the_others(seeds, factor):
  """One variant of six has many times the standard deviation of the others between seeds."""
  rng = np.random.default_rng(seeds)
  false, reach, alone = 0, [], []
  for _ in range(STUDIES):
    arms = crossed(rng, [seeds] * 7, 50)
    arms[-1] = arms[-1] + rng.normal(0, (factor**2 - 1) ** 0.5, (seeds, 1))
    estimates = compare(arms)
    false += any(statistics.verdict(x) != 'no difference shown' for x in estimates)
    reach.append(estimates[0].high - estimates[0].low)
    alone.append(np.ptp([[x.low, x.high] for x in compare(arms[:2])]))
  assert false / STUDIES <= 0.05 + SLACK
  # The intervals of the others are then those of arms with their own variances.
  assert np.median(reach) < {3: 3, 5: 2}[seeds] * np.median(alone)


def test_arms_that_are_not_alike_share_no_variance():
  rng = np.random.default_rng(0)
  arms = [(1 + arm / 10) * np.arange(5.0)[:, None] + rng.normal() for arm in range(4)]
  shared = statistics.seed_variance(arms)
  assert shared.df == 16
  assert shared.variance == pytest.approx(np.mean([arm.var(ddof=1) for arm in arms]))
  assert statistics.seed_variance([*arms, 100 * rng.normal(size=(5, 1))]) is None
  assert statistics.seed_variance([np.zeros((3, 1)), np.ones((3, 1))]).variance == 0
  assert statistics.seed_variance([np.zeros((3, 1)), rng.normal(size=(3, 1))]) is None


def test_three_points_are_found_with_five_seeds():
  """One variant of six is better by three points, the others are not."""
  rng = np.random.default_rng(2)
  shifts = [0] * 6 + [0.735]
  gaps, found = [], 0
  for _ in range(200):
    *_, estimate = compare(simulate(rng, [5] * 7, 2000, shifts))
    gaps.append(estimate.mean)
    found += statistics.verdict(estimate) == 'better'
  assert 0.0285 < np.mean(gaps) < 0.0315
  assert found / 200 >= 0.8


def test_what_is_detectable_is_detected():
  """A true difference of that size is found in 80 % of the studies, within three errors."""
  rng, studies = np.random.default_rng(3), 1500
  true_error = (2 / 4 * (1 + 4 / 50)) ** 0.5  # The difficulty of images cancels out.
  size = statistics.detectable(true_error, 7 * 3, 6)
  found = 0
  for _ in range(studies):
    arms = crossed(rng, [4] * 7, 50)
    arms[1] += size
    seeds = statistics._pool([arm.mean(1) for arm in arms])
    estimate = statistics.difference(arms[1], arms[0], seeds=seeds, comparisons=6)
    found += statistics.verdict(estimate) == 'better'
  assert abs(found / studies - 0.8) < 3 * (0.8 * 0.2 / studies) ** 0.5


def test_detectable_in_the_limit_of_many_seeds():
  expected = stats.norm.ppf((1 + 0.95 ** (1 / 6)) / 2) + stats.norm.ppf(0.8)
  assert statistics.detectable(1.0, 1e6, 6) == pytest.approx(expected, rel=1e-4)
  assert statistics.detectable(0.5, 1e6, 6) == pytest.approx(expected / 2, rel=1e-4)
  assert statistics.detectable(0.0, 10) == 0
  assert np.isnan(statistics.detectable(float('nan'), 0))


@pytest.mark.parametrize('pooled', [True, False])
@pytest.mark.parametrize('n', [1, 40])
def test_without_variance_between_images_it_is_the_two_sample_t_test(n, pooled):
  rng = np.random.default_rng(4)
  one, other = rng.normal(size=4), rng.normal(size=6)
  arms = [np.tile(x[:, None], n) for x in (one, other)]
  seeds = statistics._pool([one, other]) if pooled else None
  estimate = statistics.difference(*arms, seeds=seeds)
  expected = stats.ttest_ind(one, other, equal_var=pooled)
  low, high = expected.confidence_interval()
  assert estimate.mean / estimate.standard_error == pytest.approx(expected.statistic)
  assert estimate.df == pytest.approx(expected.df) and estimate.seeds == 4
  assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_a_larger_arm_lends_no_more_degrees_of_freedom_than_an_equal_one():
  small, large = np.array([[0.0], [0.1], [-0.1]]), np.arange(10.0)[:, None]
  expected = stats.ttest_ind(small[:, 0], large[:, 0], equal_var=False)
  assert expected.df > 9
  estimate = statistics.difference(small, large)
  assert estimate.df == pytest.approx(4)
  assert estimate.high - estimate.low > np.diff(expected.confidence_interval())[0]


def test_several_variants_against_dunnett():
  """With the same error and degrees of freedom, Sidak's bound is wider by a few percent."""
  rng = np.random.default_rng(5)
  arms = [rng.permutation(np.arange(5.0))[:, None] + rng.normal() for _ in range(7)]
  expected = stats.dunnett(*(arm[:, 0] for arm in arms[1:]), control=arms[0][:, 0])
  interval = expected.confidence_interval()
  for index, estimate in enumerate(compare(arms)):
    assert estimate.df == pytest.approx(28)
    assert estimate.mean / estimate.standard_error == pytest.approx(expected.statistic[index])
    ratio = (estimate.high - estimate.low) / (interval.high[index] - interval.low[index])
    assert 1 < ratio < 1.07


def test_of_identical_runs_it_is_the_paired_t_test_over_images():
  rng = np.random.default_rng(6)
  one, other = rng.normal(size=(2, 30))
  expected = stats.ttest_rel(one, other).confidence_interval()
  repeated = np.tile(one, (3, 1)), np.tile(other, (4, 1))
  for estimate in (statistics.difference(*repeated), statistics.paired([one - other] * 3)):
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected))
    assert estimate.df == pytest.approx(29)


@pytest.mark.parametrize('missing', [0.0, 0.3])
def test_the_variance_is_unbiased(missing):
  """For normal scores with known variances, also where runs did not score all images."""
  rng, repeats, gaps, squares = np.random.default_rng(7), 4000, [], []
  for _ in range(repeats):
    one, other = crossed(rng, [4, 5], 25)
    for arm in (one, other):
      arm[rng.random(arm.shape) < missing] = np.nan
    estimate = statistics.difference(one, other)
    gaps.append(estimate.mean)
    squares.append(estimate.standard_error**2)
  gaps, squares = np.array(gaps), np.array(squares)
  # The errors of the variances: of a normal sample, and of a mean.
  error = np.hypot(gaps.var() * (2 / repeats) ** 0.5, squares.std() / repeats**0.5)
  # Keeping the sum above its parts raises it a little.
  assert -3 * error < squares.mean() - gaps.var() < 0.05 * gaps.var() + 3 * error


def test_missing_scores_by_loops():
  """Against weights, influences and cells computed in loops."""
  rng = np.random.default_rng(8)
  values = rng.normal(size=(4, 6)) + 5 * rng.normal(size=6)
  values[0, 1] = values[0, 2] = values[3, 5] = np.nan
  values[1:, 0] = np.nan  # Only one run scored this image.
  means, weights = [], np.zeros((4, 6))
  for s in range(4):
    scored = [i for i in range(6) if not np.isnan(values[s, i])]
    means.append(sum(values[s, i] for i in scored) / len(scored))
    for i in scored:
      weights[s, i] = 1 / len(scored) / 4
  of_images = of_cells = 0.0
  for i in range(6):
    rows = [s for s in range(4) if weights[s, i]]
    residuals = [values[s, i] - means[s] for s in rows]
    own = [weights[s, i] for s in rows]
    of_images += np.dot(own, residuals) ** 2 * 6 / 5
    if len(rows) > 1:
      of_cells += np.var(residuals, ddof=1) * np.dot(own, own) * 6 / 5
  of_seeds = np.var(means, ddof=1) / 4
  variance = of_seeds + of_images - of_cells
  assert variance > max(of_seeds, of_images)
  expected_df = variance**2 / (of_seeds**2 / 3 + of_images**2 / 5)
  lost = np.vstack([values, np.full(6, np.nan)])
  for given in (values, lost):
    estimate = statistics.paired(given)
    assert estimate.mean == pytest.approx(np.mean(means))
    assert estimate.standard_error == pytest.approx(variance**0.5)
    assert estimate.df == pytest.approx(expected_df)
    assert estimate.seeds == 4


def test_the_error_is_never_below_that_of_its_parts():
  """Where runs or images agree by chance, V_cell is not subtracted in full."""
  rng = np.random.default_rng(12)
  values = rng.normal(size=(4, 20))
  same_runs = values - values.mean(1, keepdims=True)
  assert statistics.paired(same_runs).standard_error == pytest.approx(stats.sem(same_runs.mean(0)))
  same_images = values - values.mean(0) + rng.normal(size=(4, 1))
  assert statistics.paired(same_images).standard_error == pytest.approx(
    stats.sem(same_images.mean(1))
  )


def test_paired_interval_covers_the_true_mean():
  rng, repeats, held = np.random.default_rng(9), 2000, 0
  for _ in range(repeats):
    (values,) = crossed(rng, [4], 60)
    estimate = statistics.paired(values + 1.5)
    held += estimate.low <= 1.5 <= estimate.high
  slack = 3 * (0.05 * 0.95 / repeats) ** 0.5
  assert 0.95 - slack <= held / repeats <= 0.99


def test_verdicts_follow_the_interval():
  def verdict(low, high, seeds=3, **options):
    estimate = statistics.Estimate((low + high) / 2, 1.0, 5.0, low, high, seeds)
    return statistics.verdict(estimate, **options)

  assert verdict(0.1, 0.2) == 'better' and verdict(-0.2, -0.1) == 'worse'
  assert verdict(0.1, 0.2, lower_is_better=True) == 'worse'
  assert verdict(-0.2, -0.1, lower_is_better=True) == 'better'
  assert verdict(-0.1, 0.2) == verdict(0.0, 0.0) == 'no difference shown'
  assert verdict(0.1, 0.2, seeds=2) == 'not enough seeds'


def test_a_single_run_shows_nothing():
  rng = np.random.default_rng(10)
  estimate = statistics.difference(rng.random((1, 20)), rng.random((1, 20)))
  assert np.isfinite(estimate.mean) and np.isnan(estimate.standard_error)
  assert (estimate.low, estimate.high) == (-np.inf, np.inf)
  assert statistics.verdict(estimate) == 'not enough seeds'


@pytest.mark.parametrize(
  ('variant', 'text'),
  [
    (np.zeros((3, 5)), '5 images and the baseline for 4'),
    (np.zeros(4), r'shape \(4,\)'),
    (np.full((3, 4), np.nan), 'no run has scores'),
    (np.full((3, 4), np.inf), 'infinite'),
  ],
)
def test_scores_that_do_not_fit_are_refused(variant, text):
  with pytest.raises(UserError, match=text):
    statistics.difference(variant, np.zeros((3, 4)))
