from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import restore
from dip_jax.base import Algorithm, Info, Net, Problem
from dip_jax.config import FitConfig, StopConfig
from dip_jax.errors import InputError
from dip_jax.fit import build_fit
from dip_jax.keys import image_key
from dip_jax.losses import build_likelihood
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.sensing import SubsampledFourier
from dip_jax.presets import build_config
from dip_jax.stopping.minimum import warm_up
from dip_jax.stopping.rules import build_stopper
from dip_jax.tasks.simulate import simulate_case

SHAPE = (8, 6, 1)
KEY = jax.random.key(0)


def problem(shape=SHAPE, **fields):
    return Problem(
        **{"operator": Identity(), "measurement": jnp.zeros(shape), "noise_std": 0.1} | fields
    )


def run(config, images, *, lag=0, accepted=None, averages=None, given=None, **more):
    """Feeds outputs to a rule; returns its states and which steps improved the answer."""
    stopper = build_stopper(config, lag=lag, **more)
    update = jax.jit(stopper.update)
    given = problem() if given is None else given
    shape = SHAPE if np.ndim(images[0]) == 0 else np.shape(images[0])
    state = stopper.init(KEY, given, shape)
    states, improved = [], []
    for t, image in enumerate(images):
        good = jnp.bool_(accepted is None or accepted[t])
        x = jnp.full(SHAPE, image) if np.ndim(image) == 0 else jnp.asarray(image, jnp.float32)
        m = x if averages is None else jnp.asarray(averages[t], jnp.float32)
        state, better = update(state, given, jnp.int32(t), Info(jnp.float32(0), x, m, good))
        states.append(state)
        improved.append(bool(better))
    return states, improved


def signals(states):
    return np.array([state.minimum.signal for state in states])


def outputs(num, least_at, seed=0):
    """Outputs whose spread falls until `least_at` and rises after it."""
    rng = np.random.default_rng(seed)
    spread = 0.01 + 0.002 * np.abs(np.arange(num) - least_at)
    return spread[:, None, None, None] * rng.standard_normal((num, *SHAPE))


class ScalingState(NamedTuple):
    step: jax.Array
    key: jax.Array
    diverged: jax.Array


def scaling(values, *, diverged=False):
    """An estimator that answers a_t y at step t."""
    values = jnp.asarray(values, jnp.float32)

    def init(key, given):
        return ScalingState(jnp.int32(0), jax.random.key_data(key), jnp.bool_(diverged))

    def step(given, state):
        image = values[state.step] * given.measurement
        info = Info(jnp.float32(0), image, image, jnp.bool_(True))
        return state._replace(step=state.step + 1), info

    return Algorithm(init, step)


def follow(config, algorithm, given, num, shape, **more):
    """An estimator and its rule, as a slot runs them; returns the rule's states."""
    stopper = build_stopper(config, algorithm=algorithm, **more)
    state, stop = algorithm.init(KEY, given), stopper.init(KEY, given, shape)

    @jax.jit
    def make_step(step, state, stop):
        state, info = algorithm.step(stopper.view(stop, given), state)
        return state, stopper.update(stop, given, step, info)[0], info

    stops, infos = [], []
    for t in range(num):
        state, stop, info = make_step(jnp.int32(t), state, stop)
        stops.append(stop)
        infos.append(info)
    return stops, infos


# fixed, and the windowed variance


def test_fixed_keeps_the_last_answer_and_never_stops():
    states, improved = run(StopConfig(rule="fixed"), [0.1, 0.2, 0.3])
    assert improved == [True, True, True]
    assert not states[-1].done
    assert states[-1].estimate_step == 2


def test_the_variance_is_that_of_the_window_in_numpy():
    images = outputs(30, 15)
    states, _ = run(StopConfig(rule="wmv", window=7), images)
    expected = [images[t - 6 : t + 1].var(axis=0).mean() for t in range(6, 30)]
    assert np.isnan(signals(states)[:6]).all()
    np.testing.assert_allclose(signals(states)[6:], expected, rtol=1e-5)


def test_the_variance_of_a_random_subset_estimates_that_of_all_pixels():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((12, 64, 64, 3)).astype(np.float32)
    states, _ = run(
        StopConfig(rule="wmv", window=10, num_pixels=500), images, given=problem((64, 64, 3))
    )
    assert states[-1].window.shape == (10, 1500)
    full = images[2:].var(axis=0).mean()
    assert abs(float(signals(states)[-1]) / full - 1) < 5 * np.sqrt(2 / (9 * 1500))


def test_wmv_stops_after_the_minimum_is_confirmed_and_hands_it_out():
    config = StopConfig(rule="wmv", window=10, patience=0.2)
    states, improved = run(config, outputs(200, 100))
    done = next(t for t, s in enumerate(states) if s.done)
    best = int(states[done].minimum.best_step)
    # stamped at the window's end, so a few steps behind the quietest output
    assert 100 <= best <= 112
    assert done == best + max(20, int(np.ceil(0.2 * best)))
    assert max(t for t in range(200) if improved[t]) == best
    assert states[-1].minimum.estimate_step == best


@pytest.mark.parametrize("rule", ["wmv", "emv"])
def test_with_an_average_the_answer_comes_its_lag_after_the_minimum(rule):
    config = StopConfig(rule=rule, window=10, patience=0.2, emv_rate=0.3)
    states, improved = run(config, outputs(200, 100), lag=7)
    best = int(states[-1].minimum.best_step)
    assert 95 <= best <= 115
    assert max(t for t, better in enumerate(improved) if better) == best + 7


def test_no_minimum_counts_before_the_warm_up():
    # quiet at once, then restless until step 100: without a guard it would stop at step 10
    config = StopConfig(rule="wmv", window=10, patience=0.2)
    images = np.concatenate([np.zeros((10, *SHAPE)), outputs(190, 90)])
    states, improved = run(config, images)
    assert int(states[-1].minimum.best_step) > 50
    assert all(improved[: warm_up(SHAPE, window=10) - 1])


def test_the_warm_up_grows_with_the_picture():
    assert warm_up((64, 64, 3), window=100) == 200
    assert warm_up((512, 512, 3), window=100) == 512
    assert warm_up((400, 900, 3), window=100) == 600
    assert warm_up((64, 64, 3)) == 64


@pytest.mark.parametrize("rule", ["wmv", "emv"])
def test_a_confirmed_stop_is_final(rule):
    config = StopConfig(rule=rule, window=10, patience=0.1, emv_rate=0.3)
    images = np.concatenate([outputs(150, 60), np.zeros((30, *SHAPE))])
    states, improved = run(config, images)
    assert all(s.done for s in states[-31:])
    # quieter than ever, but it is too late
    assert signals(states)[-1] < states[-31].minimum.least
    for frozen in ("best_step", "estimate_step", "least"):
        assert getattr(states[-1].minimum, frozen) == getattr(states[-31].minimum, frozen)
    assert not any(improved[-31:])


def test_a_rollback_empties_the_window():
    images = outputs(60, 30)
    accepted = [t != 25 for t in range(60)]
    states, improved = run(StopConfig(rule="wmv", window=8), images, accepted=accepted)
    assert not improved[25]
    assert np.isnan(signals(states)[25:33]).all()
    expected = images[26:34].var(axis=0).mean()
    np.testing.assert_allclose(signals(states)[33], expected, rtol=1e-5)


def test_nothing_is_confirmed_while_the_window_refills():
    # quieter and quieter, with a rollback whenever the window is nearly full
    images = np.array([(-1.0) ** t * (1 - t / 400) for t in range(300)])
    accepted = [t < 60 or t % 9 != 0 for t in range(300)]
    states, _ = run(StopConfig(rule="wmv", window=10, patience=0.1), images, accepted=accepted)
    assert not states[-1].done
    assert int(states[-1].minimum.best_step) == 62


# the exponential variance


def moving_variance(images, rate):
    """As published, in numpy."""
    m, v, found = images[0], 0.0, []
    for x in images:
        d = x - m
        m = m + rate * d
        v = (1 - rate) * (v + rate * np.mean(d**2))
        found.append(v)
    return np.array(found)


def test_emv_is_the_published_recursion_in_numpy():
    images = outputs(80, 40) + 0.5
    states, _ = run(StopConfig(rule="emv"), images)
    expected = moving_variance(images, 0.1)
    assert np.isnan(signals(states)[:49]).all()
    np.testing.assert_allclose(signals(states)[49:], expected[49:], rtol=1e-4)


def test_emv_of_steady_outputs_is_their_variance():
    images = np.random.default_rng(0).normal(0, 0.1, (400, *SHAPE))
    states, _ = run(StopConfig(rule="emv"), images)
    # d has the variance s^2 (1 + a / (2 - a)), and v that times 1 - a
    expected = 0.9 * 0.01 * (1 + 0.1 / 1.9)
    found = signals(states)[100:].mean()
    assert abs(found / expected - 1) < 5 * np.sqrt(2 / (300 * 48))


def test_a_rollback_begins_the_exponential_variance_anew():
    images = outputs(60, 30)
    images[20] = np.nan
    accepted = [t != 20 for t in range(60)]
    config = StopConfig(rule="emv", emv_rate=0.5)
    states, _ = run(config, images, accepted=accepted)
    assert np.isnan(signals(states)[20:30]).all()
    expected = moving_variance(images[21:], 0.5)
    np.testing.assert_allclose(signals(states)[30:], expected[9:], rtol=1e-4)


def test_a_padded_margin_does_not_change_the_exponential_variance():
    images = outputs(60, 30)
    wide = np.pad(images, [(0, 0), (0, 4), (0, 2), (0, 0)])
    region = jnp.asarray(np.pad(np.ones(SHAPE, np.float32), [(0, 4), (0, 2), (0, 0)]))
    given = problem((12, 8, 1), region=region)
    plain, _ = run(StopConfig(rule="emv"), images)
    padded, _ = run(StopConfig(rule="emv"), wide, given=given)
    np.testing.assert_allclose(signals(padded)[49:], signals(plain)[49:], rtol=1e-5)


# the discrepancy


def approach(y, noise, num):
    """Answers whose misfit to y falls steadily."""
    return [y + (2 - t / 10) * noise for t in range(num)]


def test_discrepancy_fires_when_the_misfit_is_that_of_the_noise():
    noise = np.random.default_rng(0).normal(0, 0.1, SHAPE)
    level = np.sqrt(np.mean(noise**2))
    given = problem(noise_std=jnp.float32(level * (1 + 1e-5)))
    estimates = approach(np.zeros(SHAPE), noise, 20)
    # what the outputs do does not matter
    states, improved = run(
        StopConfig(rule="discrepancy", discrepancy_factor=1.0),
        [0.5] * 20,
        averages=estimates,
        given=given,
    )
    expected = [(2 - t / 10) ** 2 for t in range(20)]
    np.testing.assert_allclose([s.ratio for s in states], expected, rtol=1e-4)
    assert [bool(s.done) for s in states] == [t >= 10 for t in range(20)]
    assert improved == [t <= 10 for t in range(20)]
    assert states[-1].estimate_step == 10


def test_a_larger_factor_stops_earlier():
    noise = np.random.default_rng(0).normal(0, 0.1, SHAPE)
    given = problem(noise_std=jnp.float32(np.sqrt(np.mean(noise**2))))
    config = StopConfig(rule="discrepancy", discrepancy_factor=1.5**2 + 1e-3)
    states, _ = run(config, approach(np.zeros(SHAPE), noise, 20), given=given)
    assert states[-1].estimate_step == 5


def test_a_step_that_was_undone_does_not_fire():
    noise = np.random.default_rng(0).normal(0, 0.1, SHAPE)
    given = problem(noise_std=jnp.float32(np.sqrt(np.mean(noise**2)) * (1 + 1e-5)))
    accepted = [t != 10 for t in range(20)]
    config = StopConfig(rule="discrepancy", discrepancy_factor=1.0)
    states, _ = run(config, approach(np.zeros(SHAPE), noise, 20), given=given, accepted=accepted)
    assert states[-1].estimate_step == 11


def test_values_that_say_nothing_do_not_dilute_the_misfit():
    rng = np.random.default_rng(0)
    mask = jnp.asarray(rng.random((8, 6, 1)) < 0.4, jnp.float32)
    weights = jnp.ones(SHAPE).at[0, 0].set(0.0)
    given = problem(operator=Mask(mask), measurement=mask * 0.5, weights=weights)
    estimate = rng.random(SHAPE).astype(np.float32)
    (state,), _ = run(StopConfig(rule="discrepancy"), [estimate], given=given)
    known = np.asarray(mask * weights) > 0
    expected = np.mean((estimate - 0.5)[known] ** 2) / 0.01
    np.testing.assert_allclose(state.ratio, expected, rtol=1e-5)


def test_the_noise_of_photons_follows_the_prediction():
    rng = np.random.default_rng(0)
    estimate = rng.random(SHAPE).astype(np.float32)
    y = rng.random(SHAPE).astype(np.float32)
    given = problem(measurement=jnp.asarray(y), noise_std=0.2, peak=jnp.float32(30))
    (state,), _ = run(StopConfig(rule="discrepancy"), [estimate], given=given)
    expected = np.sum((estimate - y) ** 2) / np.sum(estimate / 30 + 0.04)
    np.testing.assert_allclose(state.ratio, expected, rtol=1e-5)


def test_photons_are_noise_enough_where_the_rest_is_unknown():
    estimate = np.full(SHAPE, 0.5, np.float32)
    given = problem(noise_std=jnp.nan, peak=jnp.float32(30))
    (state,), _ = run(StopConfig(rule="discrepancy"), [estimate], given=given)
    np.testing.assert_allclose(state.ratio, 0.25 / (0.5 / 30), rtol=1e-5)


@pytest.mark.parametrize("noise_std", [np.nan, 0.0])
def test_without_a_known_noise_discrepancy_never_fires(noise_std):
    states, improved = run(
        StopConfig(rule="discrepancy"), [0.0] * 3, given=problem(noise_std=noise_std)
    )
    assert not states[-1].done
    assert np.isnan(states[-1].ratio)
    assert improved == [True] * 3


# measurements that are held out


def held(given, shape=SHAPE, share=0.2, key=KEY):
    stopper = build_stopper(StopConfig(rule="held_out", held_out_fraction=share))
    state = stopper.init(key, given, shape)
    return stopper, state, np.asarray(state.held_out)


def test_a_share_of_the_pixels_is_held_out_with_all_their_channels():
    given = problem((20, 30, 3))
    stopper, state, places = held(given, (20, 30, 3), 0.1)
    assert places.shape == (20, 30, 3)
    assert places[..., 0].sum() == 60
    assert (places == places[..., :1]).all()
    weights = stopper.view(state, given).weights
    np.testing.assert_array_equal(weights, 1 - places)
    other = held(given, (20, 30, 3), 0.1, jax.random.key(1))[2]
    assert 0 < (places * other)[..., 0].sum() < 30


def test_only_what_says_something_is_held_out():
    rng = np.random.default_rng(0)
    mask = jnp.asarray(rng.random((20, 30, 1)) < 0.5, jnp.float32)
    region = jnp.zeros((20, 30, 1)).at[:15, :25].set(1.0)
    given = problem((20, 30, 1), operator=Mask(mask), region=region)
    stopper, state, places = held(given, (20, 30, 1))
    some = np.asarray(mask * region)
    assert places.sum() == round(0.2 * some.sum())
    assert (places <= some).all()
    np.testing.assert_array_equal(stopper.view(state, given).weights, np.asarray(region) - places)


def test_of_a_measurement_that_is_no_picture_single_values_are_held_out():
    class Sums:
        is_linear = True

        def __call__(self, image):
            return image.reshape(-1, 2).sum(axis=1)

    given = problem(operator=Sums(), measurement=jnp.zeros(24))
    assert held(given, share=0.25)[2].sum() == 6
    assert held(given, share=0.001)[2].sum() == 1


def test_weights_that_were_there_stay():
    weights = jnp.ones(SHAPE).at[:4].set(0.0)
    stopper, state, places = held(problem(weights=weights), share=0.5)
    assert places[:4].sum() == 0
    assert places.sum() == 12
    np.testing.assert_array_equal(
        stopper.view(state, problem(weights=weights)).weights, weights - places
    )


def test_the_signal_is_the_loss_of_the_answer_on_what_is_held_out():
    rng = np.random.default_rng(0)
    y, estimate = (rng.random(SHAPE).astype(np.float32) for _ in range(2))
    given = problem(measurement=jnp.asarray(y))
    config = StopConfig(rule="held_out", held_out_fraction=0.2)
    for name, misfit in {"gaussian": np.square, "laplace": np.abs}.items():
        (state,), _ = run(
            config, [0.5], averages=[estimate], given=given, loss=build_likelihood(name)
        )
        expected = misfit(estimate - y)[np.asarray(state.held_out) > 0].mean()
        np.testing.assert_allclose(state.minimum.signal, expected, rtol=1e-5)


def smooth_fit():
    """A fit whose pixels depend on each other: the image is its weights, blurred."""

    def apply(params, code):
        w = params["w"] * code
        return w + 0.5 * (jnp.roll(w, 1, 0) + jnp.roll(w, -1, 1))

    net = Net(lambda key: {"w": jnp.ones(SHAPE)}, apply, SHAPE, SHAPE)
    return build_fit(FitConfig(average_decay=0.5), net)


def test_what_is_held_out_does_not_influence_the_fit():
    config = StopConfig(rule="held_out", held_out_fraction=0.2)
    y = jnp.asarray(np.random.default_rng(0).random(SHAPE), jnp.float32)
    places = held(problem())[2]
    others = y.at[3, 2].set(5.0)
    assert places[3, 2] == 0
    infos = [
        follow(config, smooth_fit(), problem(measurement=given), 10, SHAPE)[1]
        for given in (y, jnp.where(places > 0, 5.0, y), others)
    ]
    for a, b in zip(infos[0], infos[1], strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.loss, b.loss)
    assert not np.array_equal(infos[0][-1].image, infos[2][-1].image)


def test_held_out_hands_out_the_step_of_its_minimum():
    estimates = [np.full(SHAPE, abs(t - 50) / 100) for t in range(150)]
    config = StopConfig(rule="held_out", window=10, patience=0.5)
    states, improved = run(config, estimates, lag=7)
    assert max(t for t, better in enumerate(improved) if better) == 50
    assert states[-1].minimum.estimate_step == 50
    # two windows and the lag are more than half of 50
    assert [bool(s.done) for s in states].index(True) == 50 + 27


def test_a_risk_is_believed_before_a_variance_is():
    # two windows are 20 steps, the root of the pixels is 7
    estimates = [np.full(SHAPE, abs(t - 12) / 100 + 0.1) for t in range(60)]
    estimates[3] = np.zeros(SHAPE)
    config = StopConfig(rule="held_out", window=10, patience=0.5)
    states, _ = run(config, estimates)
    assert states[-1].minimum.estimate_step == 12


def test_a_step_that_was_undone_is_no_minimum():
    estimates = [np.full(SHAPE, abs(t - 50) / 100 + 0.1) for t in range(150)]
    estimates[40] = np.zeros(SHAPE)
    config = StopConfig(rule="held_out", window=10, patience=0.5)
    states, improved = run(config, estimates, accepted=[t != 40 for t in range(150)])
    assert not improved[40]
    assert states[-1].minimum.estimate_step == 50


# the unbiased estimate of the risk


def sure_config(epsilon=0.1):
    return StopConfig(rule="sure", sure_epsilon=epsilon)


def test_of_a_scaled_measurement_the_risk_is_exact():
    rng = np.random.default_rng(0)
    y = rng.normal(0.5, 0.3, SHAPE).astype(np.float32)
    a = np.linspace(0, 1.5, 7)
    given = problem(measurement=jnp.asarray(y))
    states, _ = follow(sure_config(), scaling(a), given, 7, SHAPE)
    expected = (1 - a) ** 2 * np.mean(y**2) - 0.01 + 2 * 0.01 * a
    np.testing.assert_allclose(signals(states), expected, rtol=1e-4, atol=1e-6)


def test_of_photons_too():
    rng = np.random.default_rng(0)
    y = (rng.poisson(4.0, SHAPE) / 8).astype(np.float32)
    a = np.linspace(0, 1.5, 7)
    given = problem(measurement=jnp.asarray(y), noise_std=jnp.float32(0.2), peak=jnp.float32(8))
    states, _ = follow(sure_config(), scaling(a), given, 7, SHAPE)
    variance = np.mean(y) / 8 + 0.04
    expected = (1 - a) ** 2 * np.mean(y**2) - variance + 2 * a * variance
    np.testing.assert_allclose(signals(states), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("peak", [None, 8.0])
def test_the_estimate_is_that_of_the_true_risk(peak):
    rng = np.random.default_rng(0)
    shape = (200, 200, 1)
    x = rng.uniform(0.2, 1, shape)
    y = x + rng.normal(0, 0.1, shape) if peak is None else rng.poisson(peak * x) / peak
    a = np.array([0.3, 0.7, 1.0])
    given = problem(
        measurement=jnp.asarray(y, jnp.float32),
        noise_std=jnp.float32(0.1 if peak is None else 0),
        peak=None if peak is None else jnp.float32(peak),
    )
    states, _ = follow(sure_config(), scaling(a), given, 3, shape)
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

    # the operator of the rule is the identity, so that a y need not be a picture's transform
    given = problem(measurement=y.astype(jnp.complex64), weights=mask[..., None])
    states, _ = follow(sure_config(), scaling(a), given, 2, (16, 12, 1))
    # each part has the variance 0.01 / 2, so the divergence of a y counts 2 * 0.005 * 2 a
    squares = np.mean(np.abs(np.asarray(y))[np.asarray(mask) > 0] ** 2)
    expected = (1 - a) ** 2 * squares - 0.01 + 2 * 0.01 * a
    np.testing.assert_allclose(signals(states), expected, rtol=1e-4)


def landweber(num_pixels, kernel, rate):
    """Gradient descent on |S x - y|^2, S a circular blur; answers x_t."""

    def blur(x):
        return sum(w * jnp.roll(x, shift, 1) for shift, w in kernel.items())

    def init(key, given):
        state = ScalingState(jnp.int32(0), jax.random.key_data(key), jnp.bool_(False))
        return state, jnp.zeros_like(given.measurement)

    def step(given, state):
        state, x = state
        info = Info(jnp.float32(0), x, x, jnp.bool_(True))
        return Descent(state, x + rate * blur(given.measurement - blur(x))), info

    transfer = np.array(
        [
            sum(w * np.exp(-2j * np.pi * k * shift / num_pixels) for shift, w in kernel.items())
            for k in range(num_pixels)
        ]
    ).real
    return Algorithm(lambda key, given: Descent(*init(key, given)), step), transfer


class Descent(NamedTuple):
    state: ScalingState
    x: jax.Array

    @property
    def diverged(self):
        return self.state.diverged


def test_of_gradient_descent_the_risk_has_the_trace_of_its_matrix():
    rng = np.random.default_rng(0)
    rows, columns, s = 40, 32, 0.1
    kernel = {-1: 0.25, 0: 0.5, 1: 0.25}
    algorithm, transfer = landweber(columns, kernel, 0.8)
    y = (0.5 + rng.normal(0, s, (rows, columns, 1))).astype(np.float32)
    given = problem(measurement=jnp.asarray(y))
    # larger than usual: the estimator is linear, so it does not matter
    states, infos = follow(sure_config(1.0), algorithm, given, 30, y.shape)
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
        # and that is sharp enough to miss a factor of 2
        assert t == 0 or 5 * error < trace / 2


def test_the_twin_starts_with_the_fits_own_key():
    stopper = build_stopper(sure_config(), algorithm=scaling([1.0]))
    state = stopper.init(KEY, problem(), SHAPE)
    np.testing.assert_array_equal(state.twin.key, jax.random.key_data(KEY))
    assert set(np.unique(state.probe)) == {-1.0, 1.0}


def test_missing_values_are_neither_disturbed_nor_counted():
    rng = np.random.default_rng(0)
    mask = jnp.asarray(rng.random((8, 6, 1)) < 0.5, jnp.float32)
    y = mask * jnp.asarray(rng.random(SHAPE), jnp.float32)
    given = problem(operator=Mask(mask), measurement=y)
    states, _ = follow(sure_config(), scaling([0.5]), given, 1, SHAPE)
    known = np.asarray(mask) > 0
    assert (np.asarray(states[0].probe)[~known] == 0).all()
    expected = 0.25 * np.mean(np.asarray(y)[known] ** 2) - 0.01 + 0.01
    np.testing.assert_allclose(states[0].minimum.signal, expected, rtol=1e-4)


def test_the_twin_of_a_fit_to_the_same_measurement_is_the_fit():
    y = jnp.asarray(np.random.default_rng(0).random(SHAPE), jnp.float32)
    given = problem(measurement=y, noise_std=jnp.float32(0))
    states, infos = follow(sure_config(), smooth_fit(), given, 5, SHAPE)
    np.testing.assert_array_equal(states[-1].twin.average, infos[-1].average)


@pytest.mark.parametrize("how", ["unknown noise", "diverged"])
def test_without_noise_or_twin_there_is_no_risk(how):
    given = problem(noise_std=jnp.float32(np.nan if how == "unknown noise" else 0.1))
    algorithm = scaling(np.ones(300), diverged=how == "diverged")
    config = StopConfig(rule="sure", window=10, patience=0.1)
    states, _ = follow(config, algorithm, given, 100, SHAPE)
    assert np.isnan(signals(states)).all()
    assert not states[-1].done
    assert states[-1].minimum.estimate_step == 99


def test_sure_stops_at_its_minimum():
    # the best a of a y is 1 - s^2 / mean y^2
    y = np.random.default_rng(0).normal(0, 0.2, (50, 60, 1)).astype(np.float32)
    a = np.linspace(0, 1.2, 200)
    config = StopConfig(rule="sure", window=10, patience=0.2)
    states, _ = follow(config, scaling(a), problem(measurement=jnp.asarray(y)), 200, (50, 60, 1))
    best = int(np.argmin(np.abs(a - (1 - 0.01 / np.mean(y**2)))))
    assert states[-1].done
    assert abs(int(states[-1].minimum.estimate_step) - best) <= 1


def test_rules_that_need_the_estimator_say_so():
    with pytest.raises(InputError, match="algorithm"):
        build_stopper(StopConfig(rule="sure"))


# all of them


ALONE = ("fixed", "wmv", "emv", "discrepancy", "sure", "held_out")


def test_side_by_side_each_rule_does_what_it_does_alone():
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.normal(0, 0.2, SHAPE), jnp.float32)
    given = problem(measurement=y)
    images, num = outputs(200, 60), 200
    averages = (np.linspace(0, 1.6, num)[:, None, None, None] * np.asarray(y)).astype(np.float32)
    accepted = [t != 30 for t in range(num)]
    algorithm = scaling(np.linspace(0, 1.6, num))
    settings = {"window": 10, "patience": 0.2, "emv_rate": 0.3, "held_out_fraction": 0.1}

    def track_minimum(rule, seen):
        more = {"averages": averages, "accepted": accepted, "algorithm": algorithm, "lag": 3}
        return run(StopConfig(rule=rule, **settings), images, given=seen, **more)

    states, improved = track_minimum("all", given)
    stopper = build_stopper(StopConfig(rule="all", **settings), lag=3, algorithm=algorithm)
    visible = stopper.view(states[0], given)
    assert visible.weights.sum() < 48
    told = [stopper.reports(state) for state in states]
    assert set(told[0]) == set(ALONE)
    for rule in ALONE:
        # what is held out is hidden from the others
        alone, improves = track_minimum(rule, given if rule == "held_out" else visible)
        reports = build_stopper(
            StopConfig(rule=rule, **settings), lag=3, algorithm=algorithm
        ).reports
        for mine, state in zip(told, alone, strict=True):
            for a, b in zip(mine[rule], reports(state)[rule], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)
        if rule == "held_out":
            assert improved == improves
        assert told[-1][rule].done == (rule != "fixed")
        last = max(t for t, better in enumerate(improves) if better)
        assert told[-1][rule].estimate_step == last
    assert not any(state.done for state in states)


@pytest.mark.parametrize("rule", ["fixed", "wmv", "emv", "held_out"])
def test_rules_work_side_by_side(rule):
    stopper = build_stopper(StopConfig(rule=rule, window=3))
    states = jax.vmap(lambda _: stopper.init(KEY, problem(), SHAPE))(jnp.arange(2))
    x = jnp.ones((2, *SHAPE))
    info = Info(jnp.zeros(2), x, x, jnp.array([True, False]))
    _, improved = jax.vmap(stopper.update, in_axes=(0, None, None, 0))(
        states, problem(), jnp.int32(0), info
    )
    assert improved.tolist() == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("share", ["map", "vmap"])
def test_a_run_tells_what_all_rules_say(picture, tiny, share):
    config = build_config(
        overrides=[
            *tiny,
            "fit.num_steps=25",
            "stop.rule=all",
            "stop.window=5",
            f"run.slot_mode={share}",
            "run.slots=2",
            "stop.emv_rate=0.5",
            "net.sides_per_octave=4",
        ]
    )
    cases = [
        simulate_case(image_key(0, name), config.task, name, picture[:39, :35]) for name in "ab"
    ]
    for result in restore(cases, config):
        assert set(result.stops) == set(ALONE)
        assert result.num_steps == 25
        assert result.status == "done"
        assert result.stop_step == result.stops["wmv"][0]
        for rule in ("wmv", "emv", "discrepancy", "held_out", "sure"):
            signal = result.curve[f"signal_{rule}"]
            assert np.isfinite(signal[12:]).all(), rule
        # far from the picture both say how far
        mse = 10 ** (-result.curve["psnr_average"] / 10)
        assert abs(result.curve["signal_sure"][-1] / mse[-1] - 1) < 0.3
        assert abs(result.curve["signal_held_out"][-1] - mse[-1] - (25 / 255) ** 2) < 0.3 * mse[-1]
