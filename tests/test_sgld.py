import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from dip_jax.base import Algorithm, Info, Net, Problem
from dip_jax.config import FitConfig, SgldConfig
from dip_jax.fit import build_fit
from dip_jax.losses import nll_scale
from dip_jax.operators.basic import Identity, Mask
from dip_jax.posterior.moments import num_kept, trace_names, trace_values
from dip_jax.sgld import build_sampler, build_schedule, build_sgld, sampler_args

PLAIN = {"prior_precision": 0.0, "warm_up": 0, "damping": 1e-6}


def run_chain(config, gradient, start, *, rate, num_steps, **extra):
    """Runs a sampler alone; returns the path of w `[num_steps, ...]` and the last state."""
    if config.sampler == "sgld":
        config = dataclasses.replace(config, step_size=rate)
    sampler = build_sampler(config, learning_rate=rate, num_steps=num_steps)

    def step(carry, key):
        w, state = carry
        updates, state = sampler.update(gradient(w), state, w, key=key, **extra)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    keys = jax.random.split(jax.random.key(0), num_steps)
    (_, state), path = jax.jit(lambda w: jax.lax.scan(step, (w, sampler.init(w)), keys))(start)
    return np.asarray(path), state


def assert_moments(path, variance, correlation):
    """Asserts mean 0, the variance and the lag-1 correlation, within five standard errors."""
    steps, chains = path.shape
    effective = steps * chains * (1 - correlation) / (1 + correlation)
    assert abs(path.mean()) < 5 * np.sqrt(variance / effective)
    squares = steps * chains * (1 - correlation**2) / (1 + correlation**2)
    assert abs(path.var() / variance - 1) < 5 * np.sqrt(2 / squares)
    lag = (path[1:] * path[:-1]).mean() / (path**2).mean()
    assert abs(lag - correlation) < 5 * np.sqrt((1 - correlation**2) / (steps * chains))


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_sgld_has_the_moments_of_the_discretized_chain_on_a_normal_target(temperature):
    # U = h w^2 / 2: w <- (1 - e h) w + sqrt(2 e T) n, an autoregression with known moments
    h, e = 4.0, 0.05
    config = SgldConfig(sampler="sgld", temperature=temperature, burn_in=0, **PLAIN)
    path, _ = run_chain(config, lambda w: h * w, jnp.zeros(2000), rate=e, num_steps=400)
    correlation = 1 - e * h
    assert_moments(path[100:], 2 * e * temperature / (1 - correlation**2), correlation)


def test_a_lost_square_root_of_two_would_be_found():
    h, e = 4.0, 0.05
    config = SgldConfig(sampler="sgld", temperature=0.5, burn_in=0, **PLAIN)
    path, _ = run_chain(config, lambda w: h * w, jnp.zeros(2000), rate=e, num_steps=400)
    with pytest.raises(AssertionError):
        assert_moments(path[100:], 2 * e / (1 - (1 - e * h) ** 2), 1 - e * h)


def test_sgld_has_the_covariance_of_a_correlated_normal_target():
    hessian, e = np.array([[3.0, 1.0], [1.0, 1.0]], np.float32), 0.05
    config = SgldConfig(sampler="sgld", burn_in=0, **PLAIN)
    path, _ = run_chain(
        config, lambda w: w @ jnp.asarray(hessian), jnp.zeros((4000, 2)), rate=e, num_steps=300
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
    config = SgldConfig(sampler="psgld", burn_in=burn_in, decay=0.99, **PLAIN)
    path, state = run_chain(config, lambda w: h * w, 1 / jnp.sqrt(h), rate=e, num_steps=steps)
    weight = 1 - 0.99**burn_in
    precondition = 1 / (1e-6 + np.sqrt(np.asarray(state.moment) / weight))
    correlation = 1 - e * precondition * np.asarray(h)
    variance = 2 * e * precondition / (1 - correlation**2)
    z = path[-1] / np.sqrt(variance)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    # it is that of the posterior, up to the error of the steps
    assert np.all(variance * np.asarray(h) < 1.05)
    assert np.all(variance * np.asarray(h) >= 1)


@pytest.mark.parametrize("sampler", ["sgld", "psgld"])
def test_an_asymmetric_target_has_its_moments(sampler):
    # exp(w) is Gamma(k): U = exp(w) - k w, mean digamma(k), variance trigamma(k)
    k = 3.0
    config = SgldConfig(sampler=sampler, burn_in=500, decay=0.99, **PLAIN)
    rate = 0.02 if sampler == "sgld" else 0.03
    path, _ = run_chain(
        config, lambda w: jnp.exp(w) - k, jnp.full(4000, 1.0), rate=rate, num_steps=1000
    )
    last = path[-1]
    mean, variance = special.digamma(k), special.polygamma(1, k)
    # the error of the steps is of first order in the step size, a few percent of the variance
    assert abs(last.mean() - mean) < 5 * np.sqrt(variance / 4000) + rate / 2
    assert abs(last.var() / variance - 1) < 5 * np.sqrt(3 / 4000) + 2 * rate
    skewness = np.mean(((last - last.mean()) / last.std()) ** 3)
    expected = special.polygamma(2, k) / variance**1.5
    assert abs(skewness - expected) < 5 * np.sqrt(15 / 4000)


def test_the_gamma_term_corrects_for_a_preconditioner_that_follows_the_gradient():
    # With decay 0, P = 1 / |g|, which is not nearly constant. For U = h w^2 / 2, g = h w and
    # G = dP/dw = -sign(w) / (h w^2), so the drift is P g - T G = sign(w) (1 + 1 / (h w^2)).
    w, h = jnp.array([0.5, -2.0, 1.5]), 3.0
    config = SgldConfig(
        sampler="psgld", burn_in=0, decay=0.0, freeze=False, gamma=True, **PLAIN | {"damping": 1e-9}
    )
    sampler = build_sampler(config, learning_rate=0.1, num_steps=10)
    hot, _ = sampler.update(
        h * w,
        sampler.init(w),
        w,
        key=jax.random.key(1),
        value_fn=lambda w: h * jnp.sum(w**2) / 2,
    )
    without = build_sampler(
        SgldConfig(**{**config.__dict__, "gamma": False}), learning_rate=0.1, num_steps=10
    )
    plain, _ = without.update(h * w, without.init(w), w, key=jax.random.key(1))
    expected = -0.1 * jnp.sign(w) / (h * w**2)
    np.testing.assert_allclose(hot - plain, expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("sampler", "optimizer"),
    [
        ("sgld", optax.sgd(0.01)),
        ("psgld", optax.rmsprop(0.01, 0.9, 1e-3, eps_in_sqrt=False, bias_correction=True)),
        (
            "csgld",
            optax.rmsprop(
                lambda t: 0.005 * (1 + jnp.cos(jnp.pi * (t % 13) / 13)),
                0.9,
                1e-3,
                eps_in_sqrt=False,
                bias_correction=True,
            ),
        ),
        ("paper", optax.chain(optax.add_decayed_weights(5e-8), optax.adam(0.01))),
    ],
)
def test_at_temperature_zero_a_sampler_is_the_optimizer(sampler, optimizer):
    config = SgldConfig(
        sampler=sampler, temperature=0, prior_precision=0, decay=0.9, damping=1e-3, burn_in=100
    )
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.normal(size=(1, 1, 4, 5)), jnp.float32)
    gradient = jax.grad(lambda w: jnp.sum(jnp.cos(w) ** 2) + jnp.sum(w**4))
    path, _ = run_chain(config, gradient, start, rate=0.01, num_steps=50)

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(gradient(w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    _, expected = jax.lax.scan(step, (start, optimizer.init(start)), length=50)
    np.testing.assert_allclose(path, expected, rtol=2e-6, atol=1e-7)


def test_a_direction_has_its_distribution_if_norms_are_constrained():
    # U depends on the direction alone, so the angle is von Mises, with mean cosine I1(k) / I0(k)
    k = 2.0
    config = SgldConfig(sampler="sgld", constrain_norm=True, step_size=0.02, burn_in=0, **PLAIN)

    def energy(w):
        return -k * w[0, 0, 0, 0] / jnp.sqrt(jnp.sum(w**2))

    sampler = build_sampler(config, learning_rate=0.02, num_steps=600)

    def step(carry, key):
        w, state = carry
        updates, state = sampler.update(jax.grad(energy)(w), state, w, key=key)
        return (optax.apply_updates(w, updates), state), None

    def chain(key):
        start = jnp.array([0.6, -0.8]).reshape(1, 1, 1, 2)
        carry, _ = jax.lax.scan(step, (start, sampler.init(start)), jax.random.split(key, 600))
        return carry[0].reshape(2)

    last = np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 2000)))
    np.testing.assert_allclose(np.linalg.norm(last, axis=1), 1, rtol=1e-4)
    expected = special.i1(k) / special.i0(k)
    assert abs(last[:, 0].mean() - expected) < 5 * last[:, 0].std() / np.sqrt(2000) + 0.01


def test_a_kernel_whose_norm_has_an_effect_is_not_constrained():
    config = SgldConfig(
        sampler="sgld", constrain_norm=True, temperature=0, step_size=0.1, burn_in=0, **PLAIN
    )
    w = jnp.ones((1, 1, 2, 2))
    sampler = build_sampler(config, learning_rate=0.1, num_steps=10)
    updates, _ = sampler.update(w, sampler.init(w), w, key=jax.random.key(0))
    np.testing.assert_allclose(updates, -0.1 * w, rtol=1e-6)


def test_the_prior_is_normal_with_its_precision():
    # without a measurement, the weights have the variance of the prior, 1 / p
    e, p = 0.02, 5.0
    config = SgldConfig(sampler="sgld", burn_in=0, warm_up=0, prior_precision=p)
    path, _ = run_chain(config, jnp.zeros_like, jnp.zeros(3000), rate=e, num_steps=200)
    assert_moments(path[100:], 1 / (p * (1 - e * p / 2)), 1 - e * p)


def test_the_scale_multiplies_the_loss_and_not_the_prior():
    e, h, p, scale = 0.01, 2.0, 3.0, 10.0
    config = SgldConfig(sampler="sgld", burn_in=0, warm_up=0, prior_precision=p)
    path, _ = run_chain(
        config, lambda w: h * w, jnp.zeros(3000), rate=e, num_steps=300, scale=scale
    )
    both = scale * h + p
    assert_moments(path[100:], 1 / (both * (1 - e * both / 2)), 1 - e * both)


def test_the_scale_turns_losses_into_negative_log_likelihoods():
    y = jnp.zeros((5, 4, 1))
    problem = Problem(Identity(), y, 0.1, peak=30.0)
    # the log density of a normal variable: -r^2 / (2 s^2); of a Laplace one: -|r| sqrt(2) / s
    assert np.isclose(nll_scale("gaussian", problem), 20 / (2 * 0.1**2))
    assert np.isclose(nll_scale("laplace", problem), 20 * np.sqrt(2) / 0.1)
    assert np.isclose(nll_scale("poisson", problem), 20 * 30)
    half = problem._replace(weights=jnp.ones_like(y).at[:, :2].set(0))
    assert np.isclose(nll_scale("gaussian", half), 10 / (2 * 0.1**2))
    margin = problem._replace(region=jnp.ones((5, 4, 1)).at[4].set(0))
    assert np.isclose(nll_scale("gaussian", margin), 16 / (2 * 0.1**2))


def test_the_kernels_of_paper_grow_with_the_square_root_of_the_steps():
    config = SgldConfig(sampler="paper", weight_decay=0.0)
    start = {"kernel": jnp.zeros((3, 3, 16, 32)), "bias": jnp.zeros(32)}
    sampler = build_sampler(config, learning_rate=0.01, num_steps=400)

    def step(carry, key):
        w, state = carry
        updates, state = sampler.update(jax.tree.map(jnp.zeros_like, w), state, w, key=key)
        w = optax.apply_updates(w, updates)
        return (w, state), jnp.sqrt(jnp.mean(w["kernel"] ** 2))

    keys = jax.random.split(jax.random.key(0), 400)
    (w, _), rms = jax.lax.scan(step, (start, sampler.init(start)), keys)
    np.testing.assert_allclose(rms, 0.02 * np.sqrt(np.arange(1, 401)), rtol=5 / np.sqrt(2 * 4608))
    assert not w["bias"].any()


def test_a_sampled_noise_variance_is_inverse_gamma_and_scales_the_likelihood():
    config = SgldConfig(
        sampler="sgld", noise="sampled", noise_shape=2.0, noise_rate=0.5, temperature=0,
        prior_precision=0, step_size=1.0,
    )  # fmt: skip
    sampler = build_sampler(config, learning_rate=0.01, num_steps=10)
    w = jnp.ones(1)

    def draw(key):
        updates, state = sampler.update(
            w,
            sampler.init(w),
            w,
            key=key,
            scale=10.0,
            noise_var=0.25,
            half_misfit=jnp.float32(6.0),
            half_count=20.0,
        )
        return 1 / state.noise_var, -updates[0]

    precision, drift = (
        np.asarray(x) for x in jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000))
    )
    shape, rate = 2 + 20, 0.5 + 6  # of the gamma distribution of the precision
    assert abs(precision.mean() - shape / rate) < 5 * np.sqrt(shape / 4000) / rate
    assert abs(precision.var() / (shape / rate**2) - 1) < 5 * np.sqrt((2 + 6 / shape) / 4000)
    # k was for a variance of 0.25
    np.testing.assert_allclose(drift, 10 * 0.25 * precision, rtol=1e-5)


def noise_arguments(problem):
    return sampler_args("gaussian")(
        problem, loss=jnp.float32(0.01), step=jnp.int32(0), key=jax.random.key(0), shape=(6, 5, 1)
    )


def test_missing_pixels_carry_no_information_about_the_noise():
    y = jnp.full((6, 5, 1), 0.5)
    known = jnp.zeros((6, 5, 1)).at[:2].set(1)
    inpainting = Problem(Mask(known), known * y, 0.1)
    found = noise_arguments(inpainting)
    assert np.isclose(found["half_count"], 5)
    # the loss is a mean over all pixels, and the missing ones have misfit 0
    assert np.isclose(found["half_misfit"], 0.01 * 30 / 2)
    waves = Problem(Identity(), y + 0j, 0.1)
    found = noise_arguments(waves)
    assert np.isclose(found["half_count"], 30)
    assert np.isclose(found["half_misfit"], 0.01 * 30)


def test_step_sizes_fall_in_cycles_and_only_the_later_part_of_a_cycle_samples():
    config = SgldConfig(
        sampler="csgld", num_cycles=2, explore_fraction=0.5, burn_in=0, warm_up=0, thin=1
    )
    size, temperature = build_schedule(config, 0.1, 20)(jnp.arange(20), 7.0)
    expected = 0.05 * (1 + np.cos(np.pi * (np.arange(20) % 10) / 10))
    np.testing.assert_allclose(size, expected, atol=1e-7)
    assert temperature.tolist() == 2 * (5 * [0.0] + 5 * [1.0])
    sampled = np.asarray(config.is_sample(jnp.arange(20), 20))
    assert np.flatnonzero(sampled).tolist() == [5, 6, 7, 8, 9, 15, 16, 17, 18, 19]


def test_step_sizes_fall_as_a_power_after_the_burn_in():
    config = SgldConfig(burn_in=100, warm_up=40, step_size=0.01, step_decay=0.5)
    size, temperature = build_schedule(config, 0.1, 1000)(jnp.array([0, 39, 40, 100, 400]), 7.0)
    np.testing.assert_allclose(size, [0.1, 0.1, 0.01, 0.01, 0.005], rtol=1e-6)
    assert temperature.tolist() == [0, 0, 1, 1, 1]


def test_plain_sgld_follows_the_gradient_of_the_mean_loss():
    size, _ = build_schedule(SgldConfig(sampler="sgld"), 0.1, 1000)(jnp.array([0, 900]), 50.0)
    np.testing.assert_allclose(size, [1 / 50, 1 / 50], rtol=1e-6)


def test_paper_takes_259_samples_as_in_2019():
    config = SgldConfig(sampler="paper", burn_in=7000, thin=50)
    assert config.num_samples(20000) == 259
    steps = np.flatnonzero(np.asarray(config.is_sample(jnp.arange(20000), 20000)))
    assert (steps[0], steps[-1]) == (7050, 19950)
    # that fraction of the steps is the default
    assert SgldConfig().phases(20000)[1] == 7000


@pytest.mark.parametrize(
    "config",
    [
        SgldConfig(burn_in=7, thin=3),
        SgldConfig(sampler="csgld", burn_in=7, thin=1, num_cycles=3, explore_fraction=0.3),
        SgldConfig(sampler="csgld", thin=4, num_cycles=7, explore_fraction=0.7),
    ],
)
def test_samples_are_counted_by_the_schedule_that_takes_them(config):
    for num_steps in (1, 20, 333):
        taken = np.asarray(config.is_sample(jnp.arange(num_steps), num_steps))
        assert config.num_samples(num_steps) == taken.sum()


class FakeState(NamedTuple):
    step: jax.Array
    average: jax.Array


def outputs(images, accepted=None):
    """An algorithm with the outputs `images`."""
    images = jnp.asarray(images)
    accepted = jnp.ones(len(images), bool) if accepted is None else jnp.asarray(accepted)

    def init(key, problem):
        del key, problem
        return FakeState(jnp.int32(0), jnp.zeros_like(images[0]))

    def step(problem, state):
        x = images[state.step]
        info = Info(jnp.mean(x), x, x, accepted[state.step])
        return FakeState(state.step + 1, x), info

    return Algorithm(init, step)


def sample(images, config, accepted=None, *, num_steps=None):
    algorithm = build_sgld(config, outputs(images, accepted), num_steps=num_steps or len(images))
    state = algorithm.init(jax.random.key(0), None)
    step = jax.jit(lambda state: algorithm.step(None, state))
    infos = []
    for _ in images:
        state, info = step(state)
        infos.append(info)
    return state, infos


def test_running_moments_are_those_of_numpy():
    images = np.random.default_rng(0).normal(3, 0.1, (60, 5, 4, 3)).astype(np.float32)
    config = SgldConfig(burn_in=20, thin=3)
    accepted = [t not in (24, 40) for t in range(60)]
    state, infos = sample(images, config, accepted)
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


def test_kept_samples_are_spread_over_the_run_and_their_memory_is_bounded():
    images = np.arange(100, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 1), "f")
    state, _ = sample(images, SgldConfig(burn_in=9, thin=1, keep_samples=4))
    assert state.moments.kept.shape == (4, 2, 2, 1)
    assert state.moments.kept[:, 0, 0, 0].tolist() == [10, 33, 55, 78]


@pytest.mark.parametrize(("num_steps", "keep_samples"), [(100, 75), (100, 200), (50, 7), (30, 30)])
def test_only_samples_are_kept_whatever_their_number(num_steps, keep_samples):
    config = SgldConfig(burn_in=9, thin=2, keep_samples=keep_samples)
    images = 1 + np.arange(num_steps, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 1, 1))
    for steps_made in (num_steps, 40):
        state, _ = sample(images[:steps_made].astype("f"), config, num_steps=num_steps)
        count = int(state.moments.num_samples)
        kept = state.moments.kept[: num_kept(config, count, num_steps), 0, 0, 0]
        assert (np.diff(kept) > 0).all()
        assert len(kept) == 0 or kept.min() > 10
        if keep_samples >= config.num_samples(num_steps):
            assert len(kept) == count


def test_a_sampler_without_a_burn_in_takes_its_preconditioner_from_the_first_gradient():
    config = SgldConfig(sampler="psgld", burn_in=0, temperature=0, prior_precision=0, damping=1e-9)
    path, _ = run_chain(config, lambda w: 4 * w, jnp.ones(2), rate=0.1, num_steps=2)
    np.testing.assert_allclose(path[0], 0.9, rtol=1e-5)
    np.testing.assert_allclose(path[1], 0.9 - 0.1 * 0.9, rtol=1e-5)


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


@pytest.mark.parametrize("sampler", ["sgld", "psgld"])
def test_ninety_percent_intervals_cover_ninety_percent(sampler):
    # an image drawn from the prior and measured with noise; the weights are its pixels
    precision, noise_std, side = 4.0, 0.3, 48
    rng = np.random.default_rng(0)
    reference = rng.normal(0, precision**-0.5, (side, side, 1)).astype(np.float32)
    y = reference + rng.normal(0, noise_std, reference.shape).astype(np.float32)
    shape = reference.shape
    pixels = Net(lambda key: {"x": jnp.zeros(shape)}, lambda w, z: w["x"], (1, 1, 1), shape)
    num_steps, rate = 1500, 0.01 if sampler == "sgld" else 0.05
    config = SgldConfig(
        sampler=sampler, burn_in=300, thin=2, warm_up=0, prior_precision=precision, decay=0.99
    )
    config = dataclasses.replace(config, step_size=rate)
    fit = FitConfig(num_steps=num_steps, perturbation=0.0, guard_ratio=1e6)
    chain = build_sampler(config, learning_rate=rate, num_steps=num_steps)
    inner = build_fit(fit, pixels, optimizer=chain, extra_args=sampler_args(fit.likelihood))
    algorithm = build_sgld(config, inner, num_steps=num_steps)
    problem = Problem(Identity(), jnp.asarray(y), jnp.float32(noise_std))
    start = algorithm.init(jax.random.key(0), problem)
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
        config = SgldConfig(burn_in=10, thin=1, keep_samples=5)
        algorithm = build_sgld(config, outputs(np.zeros((2, 4, 4, 1), "f")), num_steps=num_steps)
        state = jax.eval_shape(lambda: algorithm.init(jax.random.key(0), None))
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)

    assert shapes(100) == shapes(100_000)
