import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from dip_jax import losses
from dip_jax.base import Algorithm, Info, Net, Problem
from dip_jax.errors import InputError
from dip_jax.fit import Guard, build_fit
from dip_jax.operators.basic import Identity, Mask
from dip_jax.posterior.moments import num_kept, trace_names, trace_values
from dip_jax.preconditioners import frozen_rms
from dip_jax.sample_schedule import every_nth
from dip_jax.schedules import constant, cyclical
from dip_jax.sgld import (
    NoisePrior,
    build_sgld,
    monitors_of,
    paper,
    psgld,
    sampler_args,
    sgld,
    underdamped,
)
from tests.chains import assert_moments, run_chain

flat_sgld = functools.partial(sgld, prior_precision=0.0)
"""Without a prior."""


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_sgld_has_the_moments_of_the_discretized_chain_on_a_normal_target(temperature):
    # U = h w^2 / 2: w <- (1 - e h) w + sqrt(2 e T) n, an autoregression with known moments
    h, e = 4.0, 0.05
    sampler = flat_sgld(constant(e, temperature=temperature))
    path, _ = run_chain(sampler, lambda w: h * w, jnp.zeros(2000), num_steps=400)
    correlation = 1 - e * h
    assert_moments(path[100:], 2 * e * temperature / (1 - correlation**2), correlation)


def test_a_lost_square_root_of_two_would_be_found():
    h, e = 4.0, 0.05
    sampler = flat_sgld(constant(e, temperature=0.5))
    path, _ = run_chain(sampler, lambda w: h * w, jnp.zeros(2000), num_steps=400)
    with pytest.raises(AssertionError):
        assert_moments(path[100:], 2 * e / (1 - (1 - e * h) ** 2), 1 - e * h)


def test_sgld_has_the_covariance_of_a_correlated_normal_target():
    hessian, e = np.array([[3.0, 1.0], [1.0, 1.0]], np.float32), 0.05
    path, _ = run_chain(
        flat_sgld(constant(e)),
        lambda w: w @ jnp.asarray(hessian),
        jnp.zeros((4000, 2)),
        num_steps=300,
    )
    last = path[-1].astype(np.float64)  # 4000 independent draws
    expected = np.linalg.inv(hessian @ (np.eye(2) - e * hessian / 2))
    found = last.T @ last / len(last)
    error = np.sqrt((expected**2 + np.outer(expected.diagonal(), expected.diagonal())) / len(last))
    assert (np.abs(found - expected) < 5 * error).all()


def test_psgld_has_the_stationary_distribution_of_its_frozen_preconditioner():
    # the curvatures differ by a factor of 100
    h = jnp.asarray(np.repeat(np.float32([0.1, 1.0, 10.0]), 1000))
    e, steps, burn_in = 0.02, 800, 400
    rms = frozen_rms(burn_in, decay=0.99, damping=1e-6)
    sampler = psgld(constant(e), rms, prior_precision=0.0)
    path, (_, state) = run_chain(sampler, lambda w: h * w, 1 / jnp.sqrt(h), num_steps=steps)
    weight = 1 - 0.99**burn_in
    precondition = 1 / (1e-6 + np.sqrt(np.asarray(state.preconditioner.moment) / weight))
    correlation = 1 - e * precondition * np.asarray(h)
    variance = 2 * e * precondition / (1 - correlation**2)
    z = path[-1] / np.sqrt(variance)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    # it is that of the posterior, up to the error of the steps
    assert np.all(variance * np.asarray(h) < 1.05)
    assert np.all(variance * np.asarray(h) >= 1)


@pytest.mark.parametrize("name", ["sgld", "psgld"])
def test_an_asymmetric_target_has_its_moments(name):
    # exp(w) is Gamma(k): U = exp(w) - k w, mean digamma(k), variance trigamma(k)
    k, rate = 3.0, {"sgld": 0.02, "psgld": 0.03}[name]
    rms = frozen_rms(500, decay=0.99, damping=1e-6)
    samplers = {
        "sgld": flat_sgld(constant(rate)),
        "psgld": psgld(constant(rate), rms, prior_precision=0.0),
    }
    path, _ = run_chain(
        samplers[name], lambda w: jnp.exp(w) - k, jnp.full(4000, 1.0), num_steps=1000
    )
    last = path[-1]
    mean, variance = special.digamma(k), special.polygamma(1, k)
    # the error of the steps is of first order in the step size, a few percent of the variance
    assert abs(last.mean() - mean) < 5 * np.sqrt(variance / 4000) + rate / 2
    assert abs(last.var() / variance - 1) < 5 * np.sqrt(3 / 4000) + 2 * rate
    skewness = np.mean(((last - last.mean()) / last.std()) ** 3)
    expected = special.polygamma(2, k) / variance**1.5
    assert abs(skewness - expected) < 5 * np.sqrt(15 / 4000)


def rmsprop(learning_rate):
    return optax.rmsprop(learning_rate, 0.9, 1e-3, eps_in_sqrt=False, bias_correction=True)


@pytest.mark.parametrize(
    ("sampler", "optimizer"),
    [
        (flat_sgld(constant(0.01, temperature=0.0)), optax.sgd(0.01)),
        (
            psgld(constant(0.01, temperature=0.0), frozen_rms(100, decay=0.9), prior_precision=0.0),
            rmsprop(0.01),
        ),
        (
            psgld(
                cyclical(0.01, num_steps=50, temperature=0.0),
                frozen_rms(100, decay=0.9),
                prior_precision=0.0,
            ),
            rmsprop(lambda t: 0.005 * (1 + jnp.cos(jnp.pi * (t % 13) / 13))),
        ),
        (
            paper(0.01, temperature=0.0),
            optax.chain(optax.add_decayed_weights(5e-8), optax.adam(0.01)),
        ),
    ],
    ids=["sgld", "psgld", "csgld", "paper"],
)
def test_at_temperature_zero_a_sampler_is_the_optimizer(sampler, optimizer):
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.normal(size=(1, 1, 4, 5)), jnp.float32)
    gradient = jax.grad(lambda w: jnp.sum(jnp.cos(w) ** 2) + jnp.sum(w**4))
    path, _ = run_chain(sampler, gradient, start, num_steps=50)

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(gradient(w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    _, expected = jax.lax.scan(step, (start, optimizer.init(start)), length=50)
    np.testing.assert_allclose(path, expected, rtol=2e-6, atol=1e-7)


def test_the_prior_is_normal_with_its_precision():
    # without a measurement, the weights have the variance of the prior, 1 / p
    e, p = 0.02, 5.0
    sampler = sgld(constant(e), prior_precision=p)
    path, _ = run_chain(sampler, jnp.zeros_like, jnp.zeros(3000), num_steps=200)
    assert_moments(path[100:], 1 / (p * (1 - e * p / 2)), 1 - e * p)


def test_the_scale_multiplies_the_loss_and_not_the_prior():
    e, h, p, scale = 0.01, 2.0, 3.0, 10.0
    sampler = sgld(constant(e), prior_precision=p)
    path, _ = run_chain(sampler, lambda w: h * w, jnp.zeros(3000), num_steps=300, scale=scale)
    both = scale * h + p
    assert_moments(path[100:], 1 / (both * (1 - e * both / 2)), 1 - e * both)


def test_the_kernels_of_paper_grow_with_the_square_root_of_the_steps():
    start = {"kernel": jnp.zeros((3, 3, 16, 32)), "bias": jnp.zeros(32)}
    sampler = paper(0.01, temperature=0.25, weight_decay=0.0)

    def step(carry, key):
        w, state = carry
        updates, state = sampler.update(jax.tree.map(jnp.zeros_like, w), state, w, key=key)
        w = optax.apply_updates(w, updates)
        return (w, state), jnp.sqrt(jnp.mean(w["kernel"] ** 2))

    keys = jax.random.split(jax.random.key(0), 400)
    (w, _), rms = jax.lax.scan(step, (start, sampler.init(start)), keys)
    expected = 2 * 0.01 * np.sqrt(0.25) * np.sqrt(np.arange(1, 401))
    np.testing.assert_allclose(rms, expected, rtol=5 / np.sqrt(2 * 4608))
    assert not w["bias"].any()


def assert_gamma(values, shape, rate):
    """Asserts mean and variance of gamma variables within five standard errors."""
    values = np.asarray(values)
    assert abs(values.mean() - shape / rate) < 5 * np.sqrt(shape / values.size) / rate
    error = np.sqrt((2 + 6 / shape) / values.size)
    assert abs(values.var() / (shape / rate**2) - 1) < 5 * error


def draw_arguments(problem, loss, shape, prior):
    """The arguments of a sampler for 4000 keys."""
    build = sampler_args(losses.gaussian, noise_prior=prior)

    def draw(key):
        return build(problem, loss=jnp.float32(loss), step=jnp.int32(3), key=key, shape=shape)

    return jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000))


def test_a_sampled_noise_variance_is_inverse_gamma_and_scales_the_likelihood():
    shape = (8, 5, 1)
    problem = Problem(Identity(), jnp.zeros(shape), 0.5)
    found = draw_arguments(problem, 0.3, shape, NoisePrior(2.0, 0.5))
    # 40 values with a sum of squared misfits of 12
    assert_gamma(1 / found["noise_var"], 2 + 40 / 2, 0.5 + 12 / 2)
    # k is that of the drawn variance, not of 0.25
    np.testing.assert_allclose(found["scale"], 40 / (2 * found["noise_var"]), rtol=1e-5)


def test_missing_pixels_carry_no_information_about_the_noise():
    shape = (6, 5, 1)
    y = jnp.full(shape, 0.5)
    known = jnp.zeros(shape).at[:2].set(1)
    inpainting = Problem(Mask(known), known * y, 0.1)
    # the loss is a mean over all pixels, and the missing ones have misfit 0
    found = draw_arguments(inpainting, 0.01, shape, NoisePrior(1.0, 0.05))
    assert_gamma(1 / found["noise_var"], 1 + 10 / 2, 0.05 + 0.01 * 30 / 2)
    # a complex value has two parts
    found = draw_arguments(Problem(Identity(), y + 0j, 0.1), 0.01, shape, NoisePrior(1.0, 0.05))
    assert_gamma(1 / found["noise_var"], 1 + 30, 0.05 + 0.01 * 30)
    np.testing.assert_allclose(found["scale"], 30 / found["noise_var"], rtol=1e-5)


def test_the_arguments_of_a_sampler_are_a_key_of_its_own_the_step_the_scale_and_the_number_of_measurements():
    shape = (6, 5, 1)
    key = jax.random.key(4)
    found = sampler_args(losses.laplace)(
        Problem(Identity(), jnp.zeros(shape), 0.1),
        loss=jnp.float32(0.3),
        step=jnp.int32(7),
        key=key,
        shape=shape,
    )
    assert set(found) == {"key", "step", "scale", "num_measurements"}
    assert float(found["num_measurements"]) == 30
    assert int(found["step"]) == 7
    assert np.isclose(found["scale"], 30 * np.sqrt(2) / 0.1)
    assert not np.array_equal(jax.random.key_data(found["key"]), jax.random.key_data(key))


def test_a_loss_that_is_no_likelihood_cannot_be_sampled():
    shape = (6, 5, 1)
    build = sampler_args(lambda p, problem: (p - problem.measurement) ** 2)
    with pytest.raises(InputError, match="Likelihood"):
        build(
            Problem(Identity(), jnp.zeros(shape), 0.1),
            loss=jnp.float32(0.3),
            step=jnp.int32(0),
            key=jax.random.key(0),
            shape=shape,
        )


class FakeState(NamedTuple):
    step: jax.Array
    average: jax.Array


def outputs(images, accepted=None):
    """An algorithm with the outputs `images`."""
    images = jnp.asarray(images)
    accepted = jnp.ones(len(images), bool) if accepted is None else jnp.asarray(accepted)

    def init(key, problem, shape):
        del key, problem, shape
        return FakeState(jnp.int32(0), jnp.zeros_like(images[0]))

    def step(problem, state):
        x = images[state.step]
        info = Info(jnp.mean(x), x, x, accepted[state.step])
        return FakeState(state.step + 1, x), info

    return Algorithm(init, step, lag=5)


def sample(images, schedule, accepted=None, *, keep_samples=0):
    algorithm = build_sgld(outputs(images, accepted), samples=schedule, keep_samples=keep_samples)
    state = algorithm.init(jax.random.key(0), None, images[0].shape)
    step = jax.jit(lambda state: algorithm.step(None, state))
    infos = []
    for _ in images:
        state, info = step(state)
        infos.append(info)
    return state, infos


def test_running_moments_are_those_of_numpy():
    images = np.random.default_rng(0).normal(3, 0.1, (60, 5, 4, 3)).astype(np.float32)
    accepted = [t not in (24, 40) for t in range(60)]
    state, infos = sample(images, every_nth(3, burn_in=20, num_steps=60), accepted)
    chosen = [t for t in range(21, 60) if t % 3 == 0 and accepted[t]]
    assert [t for t, info in enumerate(infos) if info.sampled] == chosen
    moments = state.moments
    assert int(moments.num_samples) == len(chosen)
    np.testing.assert_allclose(moments.mean, images[chosen].mean(axis=0), rtol=1e-6)
    variance = moments.deviation / (len(chosen) - 1)
    np.testing.assert_allclose(variance, images[chosen].var(axis=0, ddof=1), rtol=1e-4)
    # the estimate is the running average before the first sample, then the mean of the samples
    np.testing.assert_array_equal(infos[5].estimate, images[5])
    np.testing.assert_array_equal(infos[-1].estimate, moments.mean)


def test_an_algorithm_that_samples_has_its_schedule_and_the_rest_of_the_fit():
    inner, schedule = outputs(np.zeros((2, 4, 4, 1), "f")), every_nth(3, burn_in=20, num_steps=60)
    algorithm = build_sgld(inner, samples=schedule)
    assert algorithm.samples is schedule
    assert algorithm.lag == inner.lag == 5
    assert inner.samples is None


def test_a_sampler_states_its_temperature_its_virial_its_step_and_the_noise_level():
    w, grads = jnp.float32([1.0, 2.0]), jnp.float32([3.0, 4.0])
    sampler = underdamped(0.1, warm_up=0, burn_in=10, prior_precision=1.0)
    state = sampler.init(w)
    for key in jax.random.split(jax.random.key(0), 2):  # the first step sets the lengths
        _, state = sampler.update(grads, state, w, key=key, scale=2.0, noise_var=jnp.float32(0.09))
    found = monitors_of({"state": (state, 3)})
    assert set(found) == {"noise_std", "temperature", "virial", "step_size"}
    assert np.isclose(found["noise_std"], 0.3)
    assert np.isclose(found["virial"], (1 * (2 * 3 + 1) + 2 * (2 * 4 + 2)) / 2)
    assert found["step_size"] <= 0.1
    plain = sgld(constant(0.1))
    assert np.isnan(monitors_of(plain.init(w))["noise_std"])
    assert monitors_of(optax.adam(0.1).init(w)) == {}


def test_fewer_than_two_samples_are_refused():
    inner = outputs(np.zeros((2, 4, 4, 1), "f"))
    with pytest.raises(InputError, match="at least two samples, got 1"):
        build_sgld(inner, samples=every_nth(10, burn_in=10, num_steps=30))
    build_sgld(inner, samples=every_nth(10, burn_in=10, num_steps=31))


def test_kept_samples_are_spread_over_the_run_and_their_memory_is_bounded():
    images = np.arange(100, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 1), "f")
    schedule = every_nth(1, burn_in=9, num_steps=100)
    state, _ = sample(images, schedule, keep_samples=4)
    assert state.moments.kept.shape == (4, 2, 2, 1)
    assert state.moments.kept[:, 0, 0, 0].tolist() == [10, 33, 55, 78]


@pytest.mark.parametrize(("num_steps", "keep_samples"), [(100, 75), (100, 200), (50, 7), (30, 30)])
def test_only_samples_are_kept_whatever_their_number(num_steps, keep_samples):
    schedule = every_nth(2, burn_in=9, num_steps=num_steps)
    images = 1 + np.arange(num_steps, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 1, 1))
    for steps_made in (num_steps, 40):
        state, _ = sample(images[:steps_made].astype("f"), schedule, keep_samples=keep_samples)
        count = int(state.moments.num_samples)
        number = num_kept(count, schedule.num_samples, keep_samples)
        kept = state.moments.kept[:number, 0, 0, 0]
        assert (np.diff(kept) > 0).all()
        assert len(kept) == 0 or kept.min() > 10
        if keep_samples >= schedule.num_samples:
            assert len(kept) == count


def test_traces_are_pixels_of_the_image_and_not_of_its_margin():
    x = jnp.asarray(np.random.default_rng(0).random((12, 10, 3)), jnp.float32)
    region = jnp.zeros((12, 10, 1)).at[:7, :6].set(1)
    info = Info(jnp.float32(0.5), x, x, jnp.bool_(True))
    found = np.asarray(trace_values(info, region=region))
    names = trace_names((7, 6, 3))
    assert len(found) == len(names)
    for name, value in zip(names[:-3], found, strict=False):
        assert value == x[tuple(int(i) for i in name[2:-1].split(","))]
    inside = np.asarray(x[:7, :6])
    np.testing.assert_allclose(found[-3:], [0.5, inside.mean(), inside.std()], rtol=1e-5)
    plain = np.asarray(trace_values(info._replace(image=x[:7, :6])))
    np.testing.assert_allclose(found, plain, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgld", "psgld", "underdamped"])
def test_ninety_percent_intervals_cover_ninety_percent(name):
    # an image drawn from the prior and measured with noise; the weights are its pixels
    precision, noise_std, side = 4.0, 0.3, 48
    rng = np.random.default_rng(0)
    reference = rng.normal(0, precision**-0.5, (side, side, 1)).astype(np.float32)
    y = reference + rng.normal(0, noise_std, reference.shape).astype(np.float32)
    shape = reference.shape
    pixels = Net(lambda key: {"x": jnp.zeros(shape)}, lambda w, z: w["x"], (1, 1, 1), shape)
    num_steps, burn_in = 1500, 300
    samplers = {
        "sgld": sgld(constant(0.01), prior_precision=precision),
        "psgld": psgld(constant(0.05), frozen_rms(burn_in, decay=0.99), prior_precision=precision),
        "underdamped": underdamped(
            0.3, warm_up=50, burn_in=burn_in, prior_precision=precision, optimizer=optax.sgd(0.1)
        ),
    }
    fit = build_fit(
        pixels,
        optimizer=samplers[name],
        extra_args=sampler_args(losses.gaussian),
        perturbation=0.0,
        guard=Guard(num_steps=50),
    )
    algorithm = build_sgld(fit, samples=every_nth(2, burn_in=burn_in, num_steps=num_steps))
    problem = Problem(Identity(), jnp.asarray(y), jnp.float32(noise_std))
    start = algorithm.init(jax.random.key(0), problem, shape)
    state = jax.jit(
        lambda s: jax.lax.fori_loop(0, num_steps, lambda _, s: algorithm.step(problem, s)[0], s)
    )(start)
    moments = state.moments
    std = np.sqrt(moments.deviation / (moments.num_samples - 1))
    covered = np.abs(moments.mean - reference) <= 1.6449 * std
    assert abs(covered.mean() - 0.9) < 0.02
    exact = precision**-1 / (precision**-1 + noise_std**2) * y
    assert np.sqrt(np.mean((moments.mean - exact) ** 2)) < 0.3 * std.mean()


def test_the_state_does_not_grow_with_the_number_of_samples():
    def shapes(num_steps):
        schedule = every_nth(1, burn_in=10, num_steps=num_steps)
        inner = outputs(np.zeros((2, 4, 4, 1), "f"))
        algorithm = build_sgld(inner, samples=schedule, keep_samples=5)
        state = jax.eval_shape(lambda: algorithm.init(jax.random.key(0), None, (4, 4, 1)))
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)

    assert shapes(100) == shapes(100_000)


def test_a_noise_variance_is_sampled_for_normal_noise_only():
    with pytest.raises(InputError, match=r"losses\.gaussian"):
        sampler_args(losses.laplace, noise_prior=NoisePrior())
