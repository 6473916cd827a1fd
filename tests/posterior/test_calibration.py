"""Coverage, likelihood, UCE and AUSE, against scipy and loops."""

import numpy as np
import pytest
from scipy import stats

from dip_jax.posterior.calibration import STD_FLOOR, calibrate, calibrate_scaled, fit_scale


def gaussian_problem(shape=(96, 96, 3)):
    """A true image drawn from N(mean, std^2), pixel by pixel."""
    draw = np.random.default_rng(2)
    mean = draw.uniform(0, 1, shape)
    std = draw.gamma(4, 0.01, shape) + 0.005
    return mean, std, draw.normal(mean, std)


def test_the_intervals_of_a_gaussian_problem_have_their_nominal_coverage():
    mean, std, truth = gaussian_problem()
    found = calibrate(mean, std, truth)
    # 27648 independent values: k = 5 standard errors of at most 0.5 / 166.
    np.testing.assert_allclose(found.coverage, found.levels, atol=0.016)
    assert found.coverage_90 == pytest.approx(0.9, abs=0.01)
    assert found.coverage_90 == found.coverage[np.argmin(abs(found.levels - 0.9))]
    assert found.width_90 == pytest.approx(2 * 1.6448536 * std.mean(), rel=1e-6)
    assert found.scale == pytest.approx(1, abs=0.022)


@pytest.mark.parametrize("factor", [0.5, 2])
def test_scaling_corrects_a_deviation_that_is_wrong_by_a_factor(factor):
    mean, std, truth = gaussian_problem()
    wrong = calibrate(mean, factor * std, truth)
    expected = 2 * stats.norm.cdf(factor * stats.norm.ppf(0.95)) - 1
    assert wrong.coverage_90 == pytest.approx(expected, abs=0.016)
    corrected = calibrate_scaled(mean, factor * std, truth)
    assert corrected.coverage_90 == pytest.approx(0.9, abs=0.02)
    assert corrected.applied_scale == pytest.approx(1 / factor, rel=0.03)
    assert corrected.scale == pytest.approx(1, abs=0.03)
    assert corrected.nll < wrong.nll
    assert corrected.uce < wrong.uce


def test_the_scale_makes_the_likelihood_largest():
    mean, std, truth = gaussian_problem((20, 20, 1))
    best = fit_scale(mean, std, truth)
    assert best == calibrate(mean, std, truth).scale

    def likelihood(s):
        return stats.norm.logpdf(truth, mean, s * std).mean()

    assert likelihood(best) > max(likelihood(0.99 * best), likelihood(1.01 * best))


def test_the_scale_is_fitted_to_one_half_and_tested_on_the_other():
    mean, std, truth = gaussian_problem((10, 11, 3))
    found = calibrate_scaled(mean, std, truth)
    order = np.random.default_rng(0).permutation(110)
    fitted, tested = (
        [array.reshape(110, 3)[half] for array in (mean, std, truth)]
        for half in (order[:55], order[55:])
    )
    assert found.applied_scale == fit_scale(*fitted)
    assert found.nll == calibrate(tested[0], found.applied_scale * tested[1], tested[2]).nll


def test_the_negative_log_likelihood_is_scipys_with_small_deviations_raised():
    mean, std, truth = gaussian_problem((20, 20, 3))
    std[:3] = 0
    floored = np.maximum(std, STD_FLOOR)
    expected = -stats.norm.logpdf(truth, mean, floored).mean()
    assert calibrate(mean, std, truth).nll == pytest.approx(expected, rel=1e-9)


def test_the_uncertainty_calibration_error_is_that_of_a_loop():
    mean, std, truth = gaussian_problem((30, 30, 3))
    variance, squared = (0.7 * std.ravel()) ** 2, (truth - mean).ravel() ** 2
    edges = np.linspace(variance.min(), variance.max(), 16)
    expected, fractions = 0.0, []
    for i in range(15):
        inside = (variance >= edges[i]) & (variance < edges[i + 1])
        if i == 14:
            inside |= variance == edges[15]
        fractions.append(inside.mean())
        if inside.any():
            expected += inside.mean() * abs(variance[inside].mean() - squared[inside].mean())
    found = calibrate(mean, 0.7 * std, truth)
    assert found.uce == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(found.bin_fraction, fractions, atol=1e-12)


def test_the_sparsification_area_is_0_for_the_right_order_and_grows_with_disorder():
    mean, std, truth = gaussian_problem((40, 40, 3))
    error = np.abs(truth - mean)
    assert calibrate(mean, 3 * error, truth).ause == 0
    informed = calibrate(mean, std, truth)
    shuffled = calibrate(
        mean, np.random.default_rng(4).permutation(std.ravel()).reshape(std.shape), truth
    )
    assert 0 < informed.ause < 0.8 * shuffled.ause
    # Removing a third by hand.
    index = int(np.argmin(abs(informed.removed - 0.33)))
    left = np.sort(error.ravel())[: round(0.67 * error.size)]
    expected = np.sqrt(np.mean(left**2) / np.mean(error**2))
    assert informed.rmse_by_error[index] == pytest.approx(expected, rel=1e-9)
    assert informed.rmse_by_std[0] == pytest.approx(1) == informed.rmse_by_error[0]


def test_equal_deviations_are_removed_in_random_order():
    truth = np.zeros((40, 40, 1))
    mean = np.concatenate([np.full((20, 40, 1), 0.2), np.full((20, 40, 1), 0.01)])
    found = calibrate(mean, np.full((40, 40, 1), 0.1), truth)
    # Random removal does not change the error; 16 values are left at the end.
    np.testing.assert_allclose(found.rmse_by_std[:80], 1, atol=0.15)


def test_values_that_are_not_finite_give_nan():
    mean, std, truth = gaussian_problem((8, 8, 1))
    std[3, 3] = np.nan
    found = calibrate(mean, std, truth)
    assert np.isnan([found.nll, found.uce, found.ause, found.scale, found.coverage_90]).all()


def test_an_exact_estimate_has_no_sparsification_area():
    truth = gaussian_problem((8, 8, 1))[2]
    assert calibrate(truth, np.zeros_like(truth), truth).ause == 0


def test_arrays_of_several_shapes_are_rejected():
    mean, std, truth = gaussian_problem((8, 8, 1))
    with pytest.raises(ValueError, match="one shape"):
        calibrate(mean[:4], std, truth)
