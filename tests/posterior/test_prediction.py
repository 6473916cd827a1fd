"""The check of predictions on held-out measurements, against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from dip_jax.clipping import Limits, mean_of_clipped
from dip_jax.posterior.prediction import check_prediction


def held_out_problem(dtype=float):
    draw = np.random.default_rng(6)
    shape = (80, 80, 3)
    std = draw.uniform(0.01, 0.05, shape)
    noise_std = 0.05
    total = np.sqrt(std**2 + noise_std**2)
    mean = draw.uniform(0, 1, shape).astype(dtype)
    noise = draw.normal(size=shape)
    if dtype is complex:
        noise = (noise + 1j * draw.normal(size=shape)) / math.sqrt(2)
    return mean, std, mean + total * noise, noise_std, draw.random(shape) < 0.3


@pytest.mark.parametrize("dtype", [float, complex])
def test_held_out_measurements_confirm_a_right_prediction(dtype):
    mean, std, measurement, noise_std, held_out = held_out_problem(dtype)
    measurement[~held_out] = 1e6  # fitted measurements must not count
    found = check_prediction(mean, std, measurement, noise_std, held_out)
    assert found.num_held_out == held_out.sum()
    # About 5800 values: k = 5 standard errors of (2 n)^(-1/2), and of 0.3 n^(-1/2).
    assert found.z_rms == pytest.approx(1, abs=0.047)
    assert found.coverage_90 == pytest.approx(0.9, abs=0.02)
    error = np.sqrt(np.mean(std[held_out] ** 2))
    assert found.predicted_error == pytest.approx(error, rel=1e-9)
    assert found.error_low < error < found.error_high
    assert found.message.startswith(f"the error at {held_out.sum()} held-out measurements is 0.")
    assert found.message.endswith(": as predicted")


@pytest.mark.parametrize(("factor", "words"), [(3.0, "too large"), (0.3, "too small")])
def test_held_out_measurements_show_a_wrong_deviation_though_the_noise_is_larger(factor, words):
    mean, std, measurement, noise_std, held_out = held_out_problem()
    right = check_prediction(mean, std, measurement, noise_std, held_out)
    found = check_prediction(mean, factor * std, measurement, noise_std, held_out)
    assert found.error == right.error
    assert found.predicted_error == pytest.approx(factor * right.predicted_error)
    assert words in found.message
    total = np.sqrt((factor * std) ** 2 + noise_std**2)
    expected = -stats.norm.logpdf(measurement, mean, total)[held_out].mean()
    assert found.nll == pytest.approx(expected, rel=1e-9)
    assert found.z_rms == pytest.approx(
        np.sqrt(np.mean(((measurement - mean) / total)[held_out] ** 2))
    )


def test_a_deviation_of_zero_is_not_confirmed():
    mean, std, measurement, noise_std, held_out = held_out_problem()
    found = check_prediction(mean, 0 * std, measurement, noise_std, held_out)
    assert "too small" in found.message


def test_few_held_out_measurements_cannot_tell():
    mean, std, measurement, noise_std, _ = held_out_problem()
    few = np.random.default_rng(0).random((80, 80, 1)) < 0.01
    for factor in (0.5, 1.0):
        found = check_prediction(mean, factor * std, measurement, noise_std, few)
        assert "too few to tell" in found.message


def test_a_noise_level_that_is_too_high_is_named():
    mean, std, measurement, noise_std, held_out = held_out_problem()
    found = check_prediction(mean, std, measurement, 2 * noise_std, held_out)
    assert found.error == found.error_high == 0
    assert found.message.endswith("the noise level is too high")


def test_less_than_ten_pixels_cannot_tell():
    mean, std, measurement, noise_std, _ = held_out_problem()
    one = np.zeros((80, 80, 1), bool)
    one[3, 4] = True
    assert "too few to tell" in check_prediction(mean, std, measurement, noise_std, one).message


def test_the_interval_of_the_error_covers_it_though_channels_share_their_error():
    draw, error, noise_std, hits = np.random.default_rng(0), 0.03, 0.1, 0
    for _ in range(400):
        pixels = draw.normal(0, error, (30, 30, 1))
        y = pixels + draw.normal(0, noise_std, (30, 30, 3))
        found = check_prediction(np.zeros_like(y), error, y, noise_std, np.ones_like(y, bool))
        hits += found.error_low <= error <= found.error_high
    # 95 % of 400, and four standard errors of 1.1 %.
    assert 0.91 < hits / 400 <= 1


BOTH = Limits(black=True, white=True)


def bright_and_gray(draw):
    """Clean pixels of three channels, half of them near white or black and half gray, `[40, 40, 3]`."""
    extreme = draw.uniform(0.9, 1, (20, 40, 3))
    extreme[:, ::2] = 1 - extreme[:, ::2]
    return np.concatenate([extreme, draw.uniform(0.3, 0.7, (20, 40, 3))])


def fraction_of_hits(errors_of, limits):
    """How often the interval of the error, in 200 draws of clipped noise, has the error that was drawn."""
    draw, error, noise_std, hits = np.random.default_rng(0), 7 / 255, 25 / 255, 0
    for _ in range(200):
        clean = bright_and_gray(draw)
        mean = errors_of(clean, draw.normal(0, error, (40, 40, 1)), noise_std)
        y = np.clip(clean + draw.normal(0, noise_std, clean.shape), 0, 1)
        found = check_prediction(mean, error, y, noise_std, np.ones_like(y, bool), limits)
        hits += found.error_low <= np.sqrt(np.mean((mean - clean) ** 2)) <= found.error_high
    return hits / 200


def test_the_interval_covers_the_error_of_pixels_whose_noise_was_clipped():
    def independent(clean, error, noise_std):
        return clean - error

    # 95 % of 200, and three standard errors of 1.5 %.
    assert fraction_of_hits(independent, BOTH) > 0.9
    assert fraction_of_hits(independent, Limits()) < 0.1


def test_the_interval_covers_the_error_of_a_mean_that_is_pulled_into_the_range():
    def of_least_squares(clean, error, noise_std):
        return mean_of_clipped(clean, noise_std, BOTH) - error

    def within_limits(clean, error, noise_std):
        return np.clip(clean - error, 0, 1)

    for errors_of in (of_least_squares, within_limits):
        assert fraction_of_hits(errors_of, BOTH) > 0.9
        assert fraction_of_hits(errors_of, Limits()) < 0.1


def test_a_wrong_deviation_is_found_in_clipped_noise():
    draw = np.random.default_rng(0)
    clean = np.concatenate([bright_and_gray(draw) for _ in range(20)])
    error = draw.normal(0, 0.03, clean.shape)
    y = np.clip(clean + draw.normal(0, 0.1, clean.shape), 0, 1)
    checks = [
        check_prediction(clean - error, std, y, 0.1, np.ones_like(y, bool), BOTH)
        for std in (0.015, 0.03, 0.06)
    ]
    endings = ("too small", "as predicted", "too large")
    assert all(c.message.endswith(end) for c, end in zip(checks, endings, strict=True))
    assert checks[1].z_rms == pytest.approx(1, abs=0.02)
    assert checks[1].coverage_90 == pytest.approx(0.9, abs=0.03)


def test_saturated_pixels_do_not_outweigh_the_others():
    """Pixels at white are all stored as white, so they tell nothing about their errors."""
    draw = np.random.default_rng(0)
    gray = np.full((100, 100, 1), 0.5)
    y = np.clip(gray + draw.normal(0, 0.1, gray.shape), 0, 1)
    mean = gray - draw.normal(0, 0.03, gray.shape)
    alone = check_prediction(mean, 0.03, y, 0.1, np.ones_like(y, bool), BOTH)
    beyond = np.full((100, 100, 1), 1.3)
    mean, y = np.concatenate([mean, beyond]), np.concatenate([y, np.ones_like(beyond)])
    both = check_prediction(mean, 0.03, y, 0.1, np.ones_like(y, bool), BOTH)
    np.testing.assert_allclose(both[1:5], alone[1:5], rtol=1e-2)


def test_without_held_out_measurements_or_a_noise_level_nothing_is_checked():
    mean, std, measurement, noise_std, held_out = held_out_problem()
    none = check_prediction(mean, std, measurement, noise_std, np.zeros_like(held_out))
    assert none.num_held_out == 0
    assert math.isnan(none.z_rms)
    assert math.isnan(none.error)
    assert "no measurement was held out" in none.message
    unknown = check_prediction(mean, std, measurement, math.nan, held_out[..., :1])
    assert "noise level is unknown" in unknown.message
