"""The law of underdamped Langevin dynamics, against normal densities and the recursion in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import fast_random
from dip_jax.underdamped import block_means, underdamped_step
from tests.chains import run_chain

KEY = jax.random.key(0)
WEAK = 1e-6
"""Precision of a prior that adds nothing to the mass."""


def assert_unit_variance(z, *, num=None):
    """Asserts mean 0 and variance 1 of independent values, within five standard errors."""
    num = z.size if num is None else num
    assert abs(z.mean()) < 5 / np.sqrt(num)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / num)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_a_normal_density_is_sampled_without_an_error_of_the_step(temperature):
    # The curvatures differ by a factor of 10,000. The mass starts with their mean and forgets it in 500 steps. With a step of
    # 0.6 in these units, overdamped dynamics has a variance of 1.4.
    curvature = jnp.asarray(np.repeat(np.float32([0.01, 1.0, 100.0]), 1000))
    step = underdamped_step(
        0.6, num_adapt=6000, friction=1.0, temperature=temperature, prior_precision=WEAK
    )
    path, state = run_chain(
        step, lambda w: curvature * w, jnp.sqrt(temperature / curvature), num_steps=6200
    )
    for block in range(3):
        of_block = slice(1000 * block, 1000 * (block + 1))
        z = path[-1, of_block] * np.sqrt(np.asarray(curvature)[of_block] / temperature)
        assert_unit_variance(z)
        assert_unit_variance(np.asarray(state.momentum)[of_block] / np.sqrt(temperature))
        # 200 steps, of which those within 1 / friction are alike
        heat = np.asarray(state.mean_temperature)[of_block].mean()
        assert abs(heat - 1) < 5 * np.sqrt(2 / (1000 * 50))
        virial = np.asarray(state.mean_virial)[of_block].mean()
        assert abs(virial - 1) < 5 * np.sqrt(2 / (1000 * 20))
    assert abs(float(state.temperature) - 1) < 5 * np.sqrt(2 / 3000)


def test_a_correlated_density_has_its_covariance():
    hessian = np.array([[3.0, 1.0], [1.0, 1.0]], np.float32)
    step = underdamped_step(0.5, num_adapt=100, friction=1.0, prior_precision=WEAK)
    start = jnp.ones((4000, 2))
    path, _ = run_chain(step, lambda w: w @ jnp.asarray(hessian), start, num_steps=300)
    last = path[-1].astype(np.float64)  # 4000 independent draws
    expected = np.linalg.inv(hessian)
    error = np.sqrt((expected**2 + np.outer(expected.diagonal(), expected.diagonal())) / len(last))
    assert (np.abs(last.T @ last / len(last) - expected) < 5 * error).all()


def test_a_step_is_the_recursion_in_numpy():
    s, friction, temperature, p = 0.3, 0.7, 0.5, 0.2
    step = underdamped_step(
        s, num_adapt=2, friction=friction, temperature=temperature, prior_precision=p
    )
    w, n = np.float32([0.5, -1.0, 2.0, 0.1]), 0.5
    params, state = {"a": jnp.asarray(w[:3]), "b": jnp.asarray(w[3:])}, None
    state = step.init(params)
    gradients = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    keys = jax.random.split(KEY, 3)
    r = mass = None
    for count, (g, key) in enumerate(zip(gradients, keys, strict=True)):
        tree = {"a": jnp.asarray(g[:3]), "b": jnp.asarray(g[3:])}
        updates, state = step.update(tree, state, params, key=key, num_measurements=n)
        _, start_key, noise_key = jax.random.split(key, 3)
        if count == 0:
            r = np.sqrt(temperature) * np.asarray(fast_random.normal(start_key, (4,)))
            mass = np.append(np.full(3, np.mean(g[:3] ** 2)), g[3] ** 2)
        if count < 2:
            mass = mass + (g**2 - mass) / (count + 50)
            m = mass / temperature + p
            h = s / np.sqrt(max(np.sum(mass / temperature / m) / n, 1))
        r = r - h * g / np.sqrt(m)
        kept = np.exp(-friction * h)
        noise = np.sqrt(temperature * (1 - kept**2)) * np.asarray(
            fast_random.normal(noise_key, (4,))
        )
        move = h / 2 * (r + (kept * r + noise)) / np.sqrt(m)
        assert np.isclose(state.temperature, np.mean(r**2) / temperature, rtol=1e-5)
        assert np.isclose(state.virial, np.mean(w * g) / temperature, rtol=1e-5)
        r = kept * r + noise
        found = np.concatenate([updates["a"], updates["b"]])
        np.testing.assert_allclose(found, move, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(state.mass, mass, rtol=1e-5)
        assert np.isclose(state.step_size, h, rtol=1e-5)
    assert h < s


def test_a_step_that_is_too_long_is_halved_until_the_kinetic_temperature_is_right():
    # In each of 500 groups, eight weights move one direction together: their curvature is 1 each, and 8 in common.
    shape = (500, 8)
    step = underdamped_step(1.0, num_adapt=3000, friction=1.0, prior_precision=WEAK)
    start = fast_random.normal(KEY, shape) / 8
    path, state = run_chain(
        step,
        lambda w: jnp.broadcast_to(jnp.sum(w, axis=1, keepdims=True), shape),
        start,
        num_steps=3500,
    )
    assert float(state.scale) in (0.5, 0.25)
    assert_unit_variance(path[-1].sum(axis=1))
    assert abs(np.mean(np.asarray(state.mean_temperature)) - 1) < 0.02


def test_weights_that_do_not_move_are_constant_and_without_a_temperature():
    w = {"scale": jnp.ones(3), "kernel": jnp.ones((2, 3))}
    moves = {"scale": jnp.float32([1, 0, 1]), "kernel": jnp.float32(1)}
    step = underdamped_step(0.3, num_adapt=1)
    state = step.init(w)
    for key in jax.random.split(KEY, 3):
        updates, state = step.update(w, state, w, key=key, moves=moves)
        assert np.flatnonzero(updates["scale"]).tolist() == [0, 2]
        assert np.all(updates["kernel"] != 0)
    is_lost = np.isnan(state.mean_temperature)
    assert is_lost.sum() == np.isnan(state.mean_virial).sum() == 1
    assert np.isfinite(float(state.temperature))


def test_a_factor_of_the_step_has_noise_of_its_own():
    # Without a gradient, the weights move by h / 2 (r + r'), whatever the factor of h is made of.
    zeros = jnp.zeros(5)
    halved = underdamped_step(0.2, num_adapt=1, prior_precision=1.0)
    short = underdamped_step(0.1, num_adapt=1, prior_precision=1.0)
    found, _ = halved.update(zeros, halved.init(zeros), zeros, key=KEY, step_factor=0.5)
    expected, _ = short.update(zeros, short.init(zeros), zeros, key=KEY)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_step_of_a_few_weights_is_not_halved_by_chance():
    step = underdamped_step(0.1, num_adapt=3000, prior_precision=WEAK)
    _, state = run_chain(step, lambda w: w, jnp.ones(4), num_steps=3000)
    assert float(state.scale) == np.float32(0.1)


def test_the_adaptation_ends_at_a_step_of_the_run_also_after_a_rollback():
    w, g = jnp.ones(3), jnp.float32([1.0, 2.0, 3.0])
    step = underdamped_step(0.1, num_adapt=10)
    state = step.init(w)
    for run_step in (8, 9, 10, 11):
        before = state
        _, state = step.update((1 + run_step) * g, state, w, key=KEY, step=jnp.int32(run_step))
        is_constant = np.array_equal(state.mass, before.mass)
        assert is_constant == (run_step >= 10)
    assert int(state.num_settled) == 2


def test_a_gradient_at_a_jump_does_not_heat_all_weights():
    w, calm = jnp.ones(100), jnp.ones(100)
    step = underdamped_step(0.1, num_adapt=1, prior_precision=WEAK)
    _, state = step.update(calm, step.init(w), w, key=KEY)
    _, state = step.update(1e6 * calm, state, w, key=KEY)
    assert float(state.temperature) < 4  # a kick of ten times h = 0.1


def test_each_array_has_its_temperature_and_its_virial():
    w = {"fixed": jnp.ones(2), "module": {"kernel": jnp.full((2, 2), 3.0)}}
    grads = {"fixed": jnp.ones(2), "module": {"kernel": jnp.full((2, 2), 5.0)}}
    moves = {"fixed": jnp.float32(0), "module": {"kernel": jnp.float32(1)}}
    step = underdamped_step(0.1, num_adapt=0)
    state = step.init(w)
    temperatures = []
    for key in jax.random.split(KEY, 4):
        _, state = step.update(grads, state, w, key=key, moves=moves)
        temperatures.append(float(state.temperature))
    found = block_means(state, w)
    assert set(found) == {"fixed", "module/kernel"}
    assert np.isnan(found["fixed"]).all()
    temperature, virial = found["module/kernel"]
    assert np.isclose(temperature, np.mean(temperatures[1:]), rtol=1e-5)
    assert np.isclose(virial, 15)
