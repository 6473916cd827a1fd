from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.base import Algorithm, Info
from dip_jax.operators.basic import Mask
from dip_jax.operators.sensing import SubsampledFourier
from dip_jax.stopping import sure
from tests.stopping.toy_fits import (
    KEY,
    SHAPE,
    ScalingState,
    build_problem,
    run_with_rule,
    scaling_algorithm,
    signals,
    smooth_fit,
)


def run_sure(algorithm, problem, num_steps, shape, *, epsilon=0.1, **options):
    """Runs an estimator with the rule; returns the states of the rule, the infos."""
    rule = sure(algorithm, epsilon=epsilon, **options)
    return run_with_rule(rule, algorithm, problem, num_steps, shape)


def test_the_risk_of_a_scaled_measurement_is_exact():
    rng = np.random.default_rng(0)
    y = rng.normal(0.5, 0.3, SHAPE).astype(np.float32)
    a = np.linspace(0, 1.5, 7)
    problem = build_problem(measurement=jnp.asarray(y))
    states, _ = run_sure(scaling_algorithm(a), problem, 7, SHAPE)
    expected = (1 - a) ** 2 * np.mean(y**2) - 0.01 + 2 * 0.01 * a
    np.testing.assert_allclose(signals(states), expected, rtol=1e-4, atol=1e-6)


def test_the_risk_of_a_scaled_photon_count_is_exact():
    rng = np.random.default_rng(0)
    y = (rng.poisson(4.0, SHAPE) / 8).astype(np.float32)
    a = np.linspace(0, 1.5, 7)
    problem = build_problem(
        measurement=jnp.asarray(y), noise_std=jnp.float32(0.2), peak=jnp.float32(8)
    )
    states, _ = run_sure(scaling_algorithm(a), problem, 7, SHAPE)
    variance = np.mean(y) / 8 + 0.04
    expected = (1 - a) ** 2 * np.mean(y**2) - variance + 2 * a * variance
    np.testing.assert_allclose(signals(states), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("peak", [None, 8.0])
def test_the_signal_estimates_the_true_risk(peak):
    rng = np.random.default_rng(0)
    shape = (200, 200, 1)
    x = rng.uniform(0.2, 1, shape)
    y = x + rng.normal(0, 0.1, shape) if peak is None else rng.poisson(peak * x) / peak
    a = np.array([0.3, 0.7, 1.0])
    problem = build_problem(
        measurement=jnp.asarray(y, jnp.float32),
        noise_std=jnp.float32(0.1 if peak is None else 0),
        peak=None if peak is None else jnp.float32(peak),
    )
    states, _ = run_sure(scaling_algorithm(a), problem, 3, shape)
    for value, state in zip(a, states, strict=True):
        loss = (value * y - x) ** 2
        v = np.full(shape, 0.01) if peak is None else y / peak
        unbiased = (value * y - y) ** 2 - v + 2 * value * v
        error = np.std(unbiased - loss) / np.sqrt(loss.size)
        assert abs(float(state.minimum.signal) - loss.mean()) < 5 * error


def test_complex_noise_has_two_parts():
    rng = np.random.default_rng(0)
    mask = jnp.asarray(rng.random((16, 12)) < 0.5, jnp.float32)
    operator = SubsampledFourier(mask)
    x = jnp.asarray(rng.random((16, 12, 1)), jnp.float32)
    noise = rng.normal(0, 0.1, (2, 16, 12, 1)) / np.sqrt(2)
    y = operator(x) + mask[..., None] * (noise[0] + 1j * noise[1])
    a = jnp.asarray([0.3, 1.0])

    # The operator of the problem is the identity, so a y need not be the transform of an image.
    problem = build_problem(measurement=y.astype(jnp.complex64), weights=mask[..., None])
    states, _ = run_sure(scaling_algorithm(a), problem, 2, (16, 12, 1))
    # Each part has the variance 0.01 / 2, so the divergence of a y counts 2 * 0.005 * 2 a.
    squares = np.mean(np.abs(np.asarray(y))[np.asarray(mask) > 0] ** 2)
    expected = (1 - a) ** 2 * squares - 0.01 + 2 * 0.01 * a
    np.testing.assert_allclose(signals(states), expected, rtol=1e-4)


class Descent(NamedTuple):
    state: ScalingState
    x: jax.Array

    @property
    def diverged(self):
        return self.state.diverged


def landweber(num_pixels, kernel, rate):
    """Gradient descent on |S x - y|^2 for a circular blur S, and the transfer function of S."""

    def blur(x):
        return sum(w * jnp.roll(x, shift, 1) for shift, w in kernel.items())

    def init(key, problem, shape):
        state = ScalingState(jnp.int32(0), jax.random.key_data(key), jnp.bool_(False))
        return Descent(state, jnp.zeros_like(problem.measurement))

    def step(problem, state):
        state, x = state
        info = Info(jnp.float32(0), x, x, jnp.bool_(True))
        return Descent(state, x + rate * blur(problem.measurement - blur(x))), info

    transfer = np.array(
        [
            sum(w * np.exp(-2j * np.pi * k * shift / num_pixels) for shift, w in kernel.items())
            for k in range(num_pixels)
        ]
    ).real
    return Algorithm(init, step), transfer


def test_the_risk_of_gradient_descent_has_the_trace_of_its_matrix():
    rng = np.random.default_rng(0)
    rows, columns, s = 40, 32, 0.1
    kernel = {-1: 0.25, 0: 0.5, 1: 0.25}
    algorithm, transfer = landweber(columns, kernel, 0.8)
    y = (0.5 + rng.normal(0, s, (rows, columns, 1))).astype(np.float32)
    problem = build_problem(measurement=jnp.asarray(y))
    # A large epsilon does not matter, because the estimator is linear.
    states, infos = run_sure(algorithm, problem, 30, y.shape, epsilon=1.0)
    for t in (0, 3, 10, 29):
        # x_t = F_t y with eigenvalues (1 - (1 - rate S^2)^t) / S
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(
                np.abs(transfer) < 1e-9, 0, (1 - (1 - 0.8 * transfer**2) ** t) / transfer
            )
        matrix = np.fft.ifft(np.diag(values) @ np.fft.fft(np.eye(columns), axis=0), axis=0).real
        x = np.einsum("ij,rjc->ric", matrix, y)
        np.testing.assert_allclose(infos[t].image, x, atol=1e-4)
        trace = np.trace(matrix) / columns
        expected = np.mean((x - y) ** 2) - s**2 + 2 * s**2 * trace
        off = matrix - np.diag(np.diag(matrix))
        error = np.sqrt(2 * rows * np.sum(off**2)) / (rows * columns)
        assert abs(float(states[t].minimum.signal) - expected) <= 5 * 2 * s**2 * error + 1e-6
        # The tolerance is small enough to detect a missing factor of 2.
        assert t == 0 or 5 * error < trace / 2


def test_the_twin_starts_with_the_key_of_the_fit():
    rule = sure(scaling_algorithm([1.0]))
    state = rule.init(KEY, build_problem(), SHAPE)
    np.testing.assert_array_equal(state.memory.twin.key, jax.random.key_data(KEY))
    assert set(np.unique(state.memory.probe)) == {-1.0, 1.0}


def test_missing_values_are_neither_perturbed_nor_counted():
    rng = np.random.default_rng(0)
    mask = jnp.asarray(rng.random((8, 6, 1)) < 0.5, jnp.float32)
    y = mask * jnp.asarray(rng.random(SHAPE), jnp.float32)
    problem = build_problem(operator=Mask(mask), measurement=y)
    states, _ = run_sure(scaling_algorithm([0.5]), problem, 1, SHAPE)
    known = np.asarray(mask) > 0
    assert (np.asarray(states[0].memory.probe)[~known] == 0).all()
    expected = 0.25 * np.mean(np.asarray(y)[known] ** 2) - 0.01 + 0.01
    np.testing.assert_allclose(states[0].minimum.signal, expected, rtol=1e-4)


def test_the_twin_of_a_fit_to_the_same_measurement_is_the_fit():
    y = jnp.asarray(np.random.default_rng(0).random(SHAPE), jnp.float32)
    problem = build_problem(measurement=y, noise_std=jnp.float32(0))
    states, infos = run_sure(smooth_fit(), problem, 5, SHAPE)
    np.testing.assert_array_equal(states[-1].memory.twin.average, infos[-1].average)


@pytest.mark.parametrize("reason", ["unknown noise", "diverged"])
def test_without_a_noise_level_or_with_a_diverged_twin_there_is_no_signal(reason):
    problem = build_problem(noise_std=jnp.float32(np.nan if reason == "unknown noise" else 0.1))
    algorithm = scaling_algorithm(np.ones(300), diverged=reason == "diverged")
    states, _ = run_sure(algorithm, problem, 100, SHAPE, window=10, patience=0.1)
    assert np.isnan(signals(states)).all()
    assert not states[-1].done
    assert states[-1].minimum.estimate_step == 99


def test_the_rule_stops_at_the_minimum_of_the_risk():
    # The best factor a is 1 - s^2 / mean y^2.
    y = np.random.default_rng(0).normal(0, 0.2, (50, 60, 1)).astype(np.float32)
    a = np.linspace(0, 1.2, 200)
    problem = build_problem(measurement=jnp.asarray(y))
    states, _ = run_sure(
        scaling_algorithm(a), problem, 200, (50, 60, 1), epsilon=0.3, window=10, patience=0.2
    )
    best = int(np.argmin(np.abs(a - (1 - 0.01 / np.mean(y**2)))))
    assert states[-1].done
    assert abs(int(states[-1].minimum.estimate_step) - best) <= 1
