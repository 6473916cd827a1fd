"""The check of predictions on held-out measurements, against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from dip_jax.posterior.prediction import check_prediction


def held_out_problem(dtype=float):
    draw = np.random.default_rng(5)
    shape = (80, 80, 3)
    std = draw.uniform(0.01, 0.05, shape)
    noise_std = 0.1
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
    assert f"at {held_out.sum()} held-out measurements are as large as predicted;" in found.message


@pytest.mark.parametrize(("factor", "words"), [(3.0, "too large"), (0.3, "too small")])
def test_held_out_measurements_show_a_wrong_prediction(factor, words):
    mean, std, measurement, noise_std, held_out = held_out_problem()
    found = check_prediction(mean, factor * std, measurement, factor * noise_std, held_out)
    assert found.z_rms == pytest.approx(1 / factor, rel=0.05)
    assert words in found.message
    total = factor * np.sqrt(std**2 + noise_std**2)
    expected = -stats.norm.logpdf(measurement, mean, total)[held_out].mean()
    assert found.nll == pytest.approx(expected, rel=1e-9)


def test_without_held_out_measurements_or_a_noise_level_nothing_is_checked():
    mean, std, measurement, noise_std, held_out = held_out_problem()
    none = check_prediction(mean, std, measurement, noise_std, np.zeros_like(held_out))
    assert none.num_held_out == 0
    assert math.isnan(none.z_rms)
    assert "no measurement was held out" in none.message
    unknown = check_prediction(mean, std, measurement, math.nan, held_out[..., :1])
    assert "noise level is unknown" in unknown.message
