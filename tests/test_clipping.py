"""The moments of clipped noise agree with numerical integrals, and the inverse of the mean is one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from dip_jax.clipping import (
    Limits,
    invert_mean,
    mean_of_clipped,
    moments_of_clipped,
    std_before_clipping,
    variance_of_clipped,
)

ALL_LIMITS = [Limits(black, white) for black in (False, True) for white in (False, True)]


def moment(power: int, x: float, std: float, limits: Limits) -> float:
    """E clip(x + n)^power, by integration over n."""
    low, high = 0 if limits.black else -np.inf, 1 if limits.white else np.inf

    def integrand(n):
        return np.clip(x + n, low, high) ** power * norm.pdf(n, scale=std)

    return quad(integrand, -10 * std, 10 * std, points=(-x, 1 - x), limit=400)[0]


@pytest.mark.parametrize("limits", ALL_LIMITS)
@pytest.mark.parametrize("std", [0.05, 0.3])
def test_mean_and_variance_are_those_of_an_integral(std, limits):
    for x in (0.0, 0.02, 0.3, 0.9, 1.0):
        mean, square = (moment(power, x, std, limits) for power in (1, 2))
        found = mean_of_clipped(np.array([x]), std, limits)
        np.testing.assert_allclose(found, mean, atol=1e-7)
        np.testing.assert_allclose(
            variance_of_clipped(found, std, limits), square - mean**2, rtol=1e-3
        )


@pytest.mark.parametrize("limits", ALL_LIMITS)
@pytest.mark.parametrize("std", [0.05, 0.3])
def test_the_derivatives_of_mean_and_variance_are_those_of_integrals(std, limits):
    h = 0.02 * std
    for x in (-0.02, 0.0, 0.1, 0.9, 1.02):
        sides = [[moment(power, x + k * h, std, limits) for k in (-1, 0, 1)] for power in (1, 2)]
        mean, variance = np.array(sides[0]), np.array(sides[1]) - np.square(sides[0])
        expected = [
            derivative
            for low, middle, high in (mean, variance)
            for derivative in (middle, (high - low) / (2 * h), (high - 2 * middle + low) / h**2)
        ]
        found = moments_of_clipped(np.array([x]), std, limits)
        # In units of s^0, s^1 and s^2, the finite differences are exact to about h^2 / s^2.
        scales = np.array([1, 1, 1 / std, std, std, 1])
        assert np.all(np.abs(np.ravel(found) - expected) < 1e-3 * scales)


def test_values_far_beyond_a_limit_count_as_four_noise_levels_beyond_it():
    far, end = (moments_of_clipped(np.array([x]), 0.1, Limits(white=True)) for x in (9.0, 1.4))
    np.testing.assert_array_equal(np.ravel(far), np.ravel(end))


@pytest.mark.parametrize("limits", ALL_LIMITS)
def test_the_level_before_clipping_follows_from_that_of_the_stored_values(limits):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 0.1, 50_000), rng.uniform(0.9, 1, 50_000)])
    y = x + 0.1 * rng.standard_normal(x.shape)
    y = np.clip(y, 0 if limits.black else None, 1 if limits.white else None)
    means = mean_of_clipped(x, 0.1, limits)
    stored = float(np.sqrt(np.mean((y - means) ** 2)))
    assert abs(std_before_clipping(stored, means, limits) / 0.1 - 1) < 0.02


@settings(deadline=None, max_examples=40)
@given(x=st.floats(0, 1), std=st.floats(0.005, 0.4), limits=st.sampled_from(ALL_LIMITS))
def test_the_inverse_of_the_mean_is_the_clean_value(x, std, limits):
    mean = mean_of_clipped(np.array([x]), std, limits)
    np.testing.assert_allclose(invert_mean(mean, std, limits), x, atol=1e-4)


def test_values_beyond_a_side_without_a_limit_stay():
    values = np.float32([-3.0, 0.5, 4.0])
    np.testing.assert_allclose(invert_mean(values, 0.1, Limits()), values, atol=1e-6)
    np.testing.assert_allclose(
        invert_mean(values, 0.1, Limits(white=True)), [-3, 0.5, 1], atol=1e-6
    )
    assert invert_mean(values, 0.1, Limits(black=True)).dtype == np.float32
