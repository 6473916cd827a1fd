"""Calibration over a folder, against simulated folders whose errors have a known law."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dip_jax.posterior.conformal import (
    calibrate_folder,
    conformal_factor,
    leave_one_out_factors,
    pooled_scale,
)
from dip_jax.posterior.prediction import PredictiveCheck, check_prediction

FOLDERS, IMAGES, LEVEL = 500, 30, 0.9
RATIO = stats.gamma(8, scale=1.5 / 8)  # the law F of t / p^2, with mean f^2 = 1.5
RANK = 28  # ceil(31 * 0.9)


def folders(noise: float, number: int = FOLDERS, images: int = IMAGES, seed: int = 0):
    """v, p^2 and n `[number, images]`; the standard error of v is noise p^2."""
    draw = np.random.default_rng(seed)
    shape = (number, images)
    variance = np.square(draw.uniform(0.01, 0.05, shape))
    true = variance * RATIO.rvs(shape, random_state=draw)
    v = true + noise * variance * draw.standard_normal(shape)
    return v, variance, draw.integers(200, 2000, shape)


def coverages(v, variance) -> np.ndarray:
    """P(t <= q p^2) of a further image, for each folder."""
    bounds = [conformal_factor(scores, LEVEL) for scores in np.divide(v, variance)]
    return RATIO.cdf(bounds)


def test_with_exact_errors_the_coverage_of_a_further_image_has_its_known_law():
    found = coverages(*folders(0.0)[:2])
    law = stats.beta(RANK, IMAGES + 1 - RANK)  # of the 28th smallest of 30 uniform numbers
    assert found.mean() == pytest.approx(RANK / (IMAGES + 1), abs=4 * law.std() / FOLDERS**0.5)
    assert LEVEL <= RANK / (IMAGES + 1) <= LEVEL + 1 / (IMAGES + 1)
    assert stats.kstest(found, law.cdf).pvalue > 0.001


@pytest.mark.parametrize("noise", [0.2, 0.5, 2.0])
def test_with_noisy_errors_the_coverage_of_a_further_image_is_not_below_the_level(noise):
    found = coverages(*folders(noise)[:2])
    assert found.mean() >= LEVEL - 3 * found.std() / FOLDERS**0.5
    exact = coverages(*folders(0.0)[:2])
    assert found.mean() > exact.mean()


def test_drawn_errors_of_further_images_are_below_their_bound_as_often_as_stated():
    v, variance, _ = folders(0.0, images=IMAGES + 1)
    inside = [
        t[-1] <= p[-1] * conformal_factor(t[:-1] / p[:-1], LEVEL)
        for t, p in zip(v, variance, strict=True)
    ]
    assert np.mean(inside) >= LEVEL - 3 * math.sqrt(LEVEL * (1 - LEVEL) / FOLDERS)


def test_the_bound_is_the_stated_order_statistic():
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 20.0))
    assert conformal_factor(scores, 0.9) == 18  # ceil(20 * 0.9)
    assert conformal_factor(scores, 0.55) == 11  # 20 * 0.55 is above 11 in floating point
    assert conformal_factor(scores, 0.951) == math.inf
    assert conformal_factor(scores[:9], 0.9) == max(scores[:9])
    assert conformal_factor(scores[:8], 0.9) == math.inf
    assert conformal_factor([], 0.5) == math.inf
    assert conformal_factor([-3.0, -2.0, -1.0], 0.5) == 0


@settings(max_examples=200, deadline=None, database=None)
@given(
    scores=st.lists(st.integers(-2, 9).map(float), min_size=1, max_size=25),
    level=st.sampled_from([0.1, 0.5, 0.8, 0.9]),
)
def test_the_bound_of_each_image_is_that_of_the_others(scores, level):
    others = [scores[:i] + scores[i + 1 :] for i in range(len(scores))]
    expected = [conformal_factor(rest, level) for rest in others]
    np.testing.assert_array_equal(leave_one_out_factors(scores, level), expected)


def test_each_image_of_a_folder_is_below_the_bound_of_the_others_as_often_as_stated():
    v, variance, _ = folders(0.0)
    inside = [np.mean(scores <= leave_one_out_factors(scores, LEVEL)) for scores in v / variance]
    # Of 30 distinct scores the 27 smallest are at most the 27th, or after themselves the 28th, of all.
    assert set(inside) == {27 / 30}


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_the_pooled_factor_has_no_bias_and_its_standard_error_is_right(noise):
    found = [pooled_scale(*folder) for folder in zip(*folders(noise), strict=True)]
    squared = np.array([scale.squared_factor for scale in found])
    stated = np.array([scale.squared_factor_std for scale in found])
    assert squared.mean() == pytest.approx(RATIO.mean(), rel=0.03)
    assert np.sqrt(np.mean(stated**2)) == pytest.approx(squared.std(), rel=0.25)
    factors = np.array([scale.factor for scale in found])
    assert np.nanmean(factors) == pytest.approx(RATIO.mean() ** 0.5, rel=0.03)
    covered = [s.factor_low <= RATIO.mean() ** 0.5 <= s.factor_high for s in found]
    assert 0.92 < np.mean(covered) < 0.98


def test_for_equal_images_the_range_is_that_of_students_t():
    draw = np.random.default_rng(0)
    v = draw.normal(2.0, 0.3, 7)
    found = pooled_scale(v, np.full(7, 4.0), np.full(7, 50))
    interval = stats.t.interval(0.95, 6, loc=v.mean() / 4, scale=stats.sem(v) / 4)
    assert found.squared_factor == pytest.approx(v.mean() / 4)
    assert found.squared_factor_std == pytest.approx(stats.sem(v) / 4)
    assert np.square([found.factor_low, found.factor_high]) == pytest.approx(interval)


def test_images_count_by_their_numbers_of_held_out_values():
    whole = pooled_scale([1.0, 2.0], [1.0, 4.0], [100, 300])
    assert whole.squared_factor == pytest.approx((100 * 1 + 300 * 2) / (100 * 1 + 300 * 4))
    jackknife = abs(1 / 1 - 2 / 4) / 2  # two images: each without the other
    assert whole.squared_factor_std == pytest.approx(jackknife)


@settings(max_examples=100, deadline=None, database=None)
@given(
    ratios=st.lists(st.floats(0.3, 3), min_size=2, max_size=20),
    c=st.floats(0.1, 10),
    seed=st.integers(0, 1000),
)
def test_predicted_deviations_times_c_divide_the_factors_by_c(ratios, c, seed):
    draw = np.random.default_rng(seed)
    p = draw.uniform(0.01, 0.1, len(ratios))
    num = draw.integers(10, 1000, len(ratios))
    v = np.array(ratios) * p**2
    plain, scaled = pooled_scale(v, p**2, num), pooled_scale(v, (c * p) ** 2, num)
    for name in ("factor", "factor_low", "factor_high"):
        assert c * getattr(scaled, name) == pytest.approx(getattr(plain, name), abs=1e-6)
    q, q_scaled = (conformal_factor(v / (a * p) ** 2, 0.5) for a in (1, c))
    assert c**2 * q_scaled == pytest.approx(q)


def test_a_range_wider_than_a_factor_of_two_cannot_tell():
    wide = pooled_scale([0.2, 3.0, 1.0, 0.5, 2.5], np.ones(5), np.full(5, 100))
    assert wide.factor_high > 2 * wide.factor_low
    assert not wide.can_tell
    assert "cannot tell" in wide.message
    one = pooled_scale([1.0], [1.0], [100])
    assert (one.factor, one.factor_low, one.factor_high) == (1, 0, math.inf)
    assert math.isnan(one.squared_factor_std)
    assert "measurements of 1 image cannot tell" in one.message


def test_a_negative_square_has_no_factor():
    found = pooled_scale([-1.0, -3.0, 1.0, -2.0, 0.5], np.ones(5), np.full(5, 100))
    assert math.isnan(found.factor)
    assert found.squared_factor == pytest.approx(-0.9)
    assert not found.can_tell
    assert "cannot tell" in found.message
    sure = pooled_scale([-1.0, -1.2, -1.1, -0.9, -1.0], np.ones(5), np.full(5, 100))
    assert sure.factor_high == 0
    assert not sure.can_tell
    assert sure.message.endswith("the noise level is too high")


@pytest.mark.parametrize(
    ("v", "variance", "num", "message"),
    [
        ([], [], [], "one shape"),
        ([1.0, 2.0], [1.0], [1], "one shape"),
        ([math.nan], [1.0], [1], "finite"),
        ([1.0], [0.0], [1], "positive"),
        ([1.0], [1.0], [0], "positive"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(v, variance, num, message):
    with pytest.raises(ValueError, match=message):
        pooled_scale(v, variance, num)


def test_a_score_that_is_no_number_and_a_level_beyond_0_and_1_are_refused():
    for function in (conformal_factor, leave_one_out_factors):
        with pytest.raises(ValueError, match="without NaN"):
            function([1.0, math.nan])
        with pytest.raises(ValueError, match=r"level in \(0, 1\)"):
            function([1.0, 2.0], 1.0)


def checks(number: int, *, held_out: float = 0.2, error: float = 0.06) -> list[PredictiveCheck]:
    """Checks of images with a predicted deviation of 0.04 and noise of 0.04."""
    draw, found = np.random.default_rng(2), []
    for _ in range(number):
        mean = draw.random((60, 60, 3))
        y = mean + draw.normal(0, math.hypot(error, 0.04), mean.shape)
        hidden = draw.random((60, 60, 1)) < held_out
        found.append(check_prediction(mean, np.full(mean.shape, 0.04), y, 0.04, hidden))
    return found


def test_checks_of_held_out_measurements_find_the_true_factor():
    found = calibrate_folder(checks(12))
    assert found.scale.factor_low < 1.5 < found.scale.factor_high
    assert found.scale.can_tell
    assert found.region_factor == pytest.approx(max(found.scores) ** 0.5)  # 9 to 19 images: k = n
    assert found.region_factors.shape == found.scores.shape == (12,)
    # Here the true scores are all the same.
    assert found.noise_fraction > 0.5
    assert found.message.startswith(f"{found.scale.message}; with a probability of 90 %, the root")
    assert "noise of held-out measurements" in found.message


def test_images_without_a_check_are_left_out():
    unchecked = check_prediction(*np.ones((3, 4, 4, 1)), 0.1, np.zeros((4, 4, 1), bool))
    found = calibrate_folder([*checks(6), unchecked])
    assert found.scale.num_images == 6
    assert found.region_factor == math.inf
    assert found.message.endswith("a bound on the error of a further image needs 9 images, got 6")
    assert calibrate_folder(checks(6), level=0.8).region_factor < math.inf
    with pytest.raises(ValueError, match="expected a check with held-out measurements"):
        calibrate_folder([unchecked])


def test_a_noise_level_that_is_too_high_gives_no_bound():
    found = calibrate_folder([c._replace(squared_error=-1e-3) for c in checks(10)])
    assert math.isnan(found.region_factor)
    assert "noise level is too high" in found.message
    assert "probability" not in found.message
