import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.base import Info, Problem
from dip_jax.config import StopConfig
from dip_jax.operators import Identity
from dip_jax.stopping import build_stopper, warm_up

SHAPE = (8, 6, 1)
KEY = jax.random.key(0)


def problem(shape=SHAPE):
    return Problem(Identity(), jnp.zeros(shape), 0.1)


def run(config, images, *, lag=0, accepted=None):
    """Feeds outputs to a rule; returns its states and which steps improved the answer."""
    stopper = build_stopper(config, lag=lag)
    update = jax.jit(stopper.update)
    state = stopper.init(KEY, problem(), SHAPE)
    states, improved = [], []
    for t, image in enumerate(images):
        good = jnp.bool_(accepted is None or accepted[t])
        x = jnp.full(SHAPE, image) if np.ndim(image) == 0 else jnp.asarray(image)
        state, better = update(state, problem(), jnp.int32(t), Info(jnp.float32(0), x, x, good))
        states.append(state)
        improved.append(bool(better))
    return states, improved


def outputs(num, least_at, seed=0):
    """Outputs whose spread falls until `least_at` and rises after it."""
    rng = np.random.default_rng(seed)
    spread = 0.01 + 0.002 * np.abs(np.arange(num) - least_at)
    return spread[:, None, None, None] * rng.standard_normal((num, *SHAPE))


def test_fixed_keeps_the_last_answer_and_never_stops():
    states, improved = run(StopConfig(rule="fixed"), [0.1, 0.2, 0.3])
    assert improved == [True, True, True]
    assert not states[-1].done
    assert states[-1].answer_step == 2


def test_the_variance_is_that_of_the_window_in_numpy():
    images = outputs(30, 15)
    states, _ = run(StopConfig(window=7), images)
    for t in range(30):
        expected = np.inf if t < 6 else images[t - 6 : t + 1].var(axis=0).mean()
        np.testing.assert_allclose(states[t].variance, expected, rtol=1e-5)


def test_the_variance_of_a_random_subset_estimates_that_of_all_pixels():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((12, 64, 64, 3)).astype(np.float32)
    stopper = build_stopper(StopConfig(window=10, num_pixels=500))
    state = stopper.init(KEY, problem((64, 64, 3)), (64, 64, 3))
    assert state.window.shape == (10, 1500)
    update = jax.jit(stopper.update)
    for t, x in enumerate(images):
        info = Info(jnp.float32(0), jnp.asarray(x), jnp.asarray(x), jnp.bool_(True))
        state, _ = update(state, problem(), jnp.int32(t), info)
    full = images[2:].var(axis=0).mean()
    assert abs(float(state.variance) / full - 1) < 5 * np.sqrt(2 / (9 * 1500))


def test_wmv_stops_after_the_minimum_is_confirmed_and_hands_it_out():
    config = StopConfig(window=10, patience=0.2)
    states, improved = run(config, outputs(200, 100))
    done = next(t for t, s in enumerate(states) if s.done)
    best = int(states[done].best_step)
    # stamped at the window's end, so a few steps behind the quietest output
    assert 100 <= best <= 112
    assert done == best + max(20, int(np.ceil(0.2 * best)))
    assert max(t for t in range(done) if improved[t]) == best


def test_with_an_average_the_answer_comes_its_lag_after_the_minimum():
    config = StopConfig(window=10, patience=0.2)
    states, improved = run(config, outputs(200, 100), lag=7)
    best = int(states[-1].best_step)
    assert max(t for t, better in enumerate(improved) if better) == best + 7


def test_no_minimum_counts_before_the_warm_up():
    # quiet at once, then restless until step 100: without a guard it would stop at step 10
    config = StopConfig(window=10, patience=0.2)
    images = np.concatenate([np.zeros((10, *SHAPE)), outputs(190, 90)])
    states, improved = run(config, images)
    assert int(states[-1].best_step) > 50
    assert all(improved[: warm_up(SHAPE, 10) - 1])


def test_the_warm_up_grows_with_the_picture():
    assert warm_up((64, 64, 3), 100) == 200
    assert warm_up((512, 512, 3), 100) == 512
    assert warm_up((400, 900, 3), 100) == 600


def test_a_confirmed_stop_is_final():
    config = StopConfig(window=10, patience=0.1)
    images = np.concatenate([outputs(150, 60), np.zeros((30, *SHAPE))])
    states, _ = run(config, images)
    assert all(s.done for s in states[-30:])


def test_a_rollback_empties_the_window():
    images = outputs(60, 30)
    accepted = [t != 25 for t in range(60)]
    states, improved = run(StopConfig(window=8), images, accepted=accepted)
    assert not improved[25]
    assert all(np.isinf(states[t].variance) for t in range(25, 33))
    np.testing.assert_allclose(states[33].variance, images[26:34].var(axis=0).mean(), rtol=1e-5)


def test_nothing_is_confirmed_while_the_window_refills():
    # quieter and quieter, with a rollback whenever the window is nearly full
    images = np.array([(-1.0) ** t * (1 - t / 400) for t in range(300)])
    accepted = [t < 60 or t % 9 != 0 for t in range(300)]
    states, _ = run(StopConfig(window=10, patience=0.1), images, accepted=accepted)
    assert not states[-1].done
    assert int(states[-1].best_step) == 62


@pytest.mark.parametrize("rule", ["fixed", "wmv"])
def test_rules_work_side_by_side(rule):
    stopper = build_stopper(StopConfig(rule=rule, window=3))
    states = jax.vmap(lambda _: stopper.init(KEY, problem(), SHAPE))(jnp.arange(2))
    x = jnp.ones((2, *SHAPE))
    info = Info(jnp.zeros(2), x, x, jnp.array([True, False]))
    _, improved = jax.vmap(stopper.update, in_axes=(0, None, None, 0))(
        states, problem(), jnp.int32(0), info
    )
    assert improved.tolist() == [True, False]
