import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.operators.basic import Mask
from dip_jax.stopping import discrepancy
from tests.stopping.toy_fits import SHAPE, build_problem, feed


def approach(y, noise, num):
    """Estimates whose misfit to y falls steadily."""
    return [y + (2 - t / 10) * noise for t in range(num)]


def test_the_rule_fires_when_the_misfit_is_that_of_the_noise():
    noise = np.random.default_rng(0).normal(0, 0.1, SHAPE)
    level = np.sqrt(np.mean(noise**2))
    problem = build_problem(noise_std=jnp.float32(level * (1 + 1e-5)))
    estimates = approach(np.zeros(SHAPE), noise, 20)
    # The outputs differ from the estimates and must not matter.
    states, improved = feed(
        discrepancy(factor=1.0),
        [0.5] * 20,
        averages=estimates,
        problem=problem,
    )
    expected = [(2 - t / 10) ** 2 for t in range(20)]
    np.testing.assert_allclose([s.ratio for s in states], expected, rtol=1e-4)
    assert [bool(s.done) for s in states] == [t >= 10 for t in range(20)]
    assert improved == [t <= 10 for t in range(20)]
    assert states[-1].estimate_step == 10


def test_a_larger_factor_fires_earlier():
    noise = np.random.default_rng(0).normal(0, 0.1, SHAPE)
    problem = build_problem(noise_std=jnp.float32(np.sqrt(np.mean(noise**2))))
    rule = discrepancy(factor=1.5**2 + 1e-3)
    states, _ = feed(rule, approach(np.zeros(SHAPE), noise, 20), problem=problem)
    assert states[-1].estimate_step == 5


def test_a_rejected_step_does_not_fire():
    noise = np.random.default_rng(0).normal(0, 0.1, SHAPE)
    problem = build_problem(noise_std=jnp.float32(np.sqrt(np.mean(noise**2)) * (1 + 1e-5)))
    accepted = [t != 10 for t in range(20)]
    rule = discrepancy(factor=1.0)
    states, _ = feed(rule, approach(np.zeros(SHAPE), noise, 20), problem=problem, accepted=accepted)
    assert states[-1].estimate_step == 11


def test_values_without_information_do_not_dilute_the_misfit():
    rng = np.random.default_rng(0)
    mask = jnp.asarray(rng.random((8, 6, 1)) < 0.4, jnp.float32)
    weights = jnp.ones(SHAPE).at[0, 0].set(0.0)
    problem = build_problem(operator=Mask(mask), measurement=mask * 0.5, weights=weights)
    estimate = rng.random(SHAPE).astype(np.float32)
    (state,), _ = feed(discrepancy(), [estimate], problem=problem)
    known = np.asarray(mask * weights) > 0
    expected = np.mean((estimate - 0.5)[known] ** 2) / 0.01
    np.testing.assert_allclose(state.ratio, expected, rtol=1e-5)


def test_the_noise_of_photons_follows_the_prediction():
    rng = np.random.default_rng(0)
    estimate = rng.random(SHAPE).astype(np.float32)
    y = rng.random(SHAPE).astype(np.float32)
    problem = build_problem(measurement=jnp.asarray(y), noise_std=0.2, peak=jnp.float32(30))
    (state,), _ = feed(discrepancy(), [estimate], problem=problem)
    expected = np.sum((estimate - y) ** 2) / np.sum(estimate / 30 + 0.04)
    np.testing.assert_allclose(state.ratio, expected, rtol=1e-5)


def test_photon_noise_suffices_if_the_read_out_noise_is_unknown():
    estimate = np.full(SHAPE, 0.5, np.float32)
    problem = build_problem(noise_std=jnp.nan, peak=jnp.float32(30))
    (state,), _ = feed(discrepancy(), [estimate], problem=problem)
    np.testing.assert_allclose(state.ratio, 0.25 / (0.5 / 30), rtol=1e-5)


@pytest.mark.parametrize("noise_std", [np.nan, 0.0])
def test_without_a_known_noise_level_the_rule_never_fires(noise_std):
    states, improved = feed(discrepancy(), [0.0] * 3, problem=build_problem(noise_std=noise_std))
    assert not states[-1].done
    assert np.isnan(states[-1].ratio)
    assert improved == [True] * 3
