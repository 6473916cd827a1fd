import numpy as np

from dip_jax.stopping import wmv
from tests.stopping.toy_fits import (
    algorithm_with,
    build_problem,
    feed,
    outputs_quietest_at,
    signals,
)


def test_the_signal_is_the_variance_of_the_window():
    images = outputs_quietest_at(15, 30)
    states, _ = feed(wmv(algorithm_with(), window=7), images)
    expected = [images[t - 6 : t + 1].var(axis=0).mean() for t in range(6, 30)]
    assert np.isnan(signals(states)[:6]).all()
    np.testing.assert_allclose(signals(states)[6:], expected, rtol=1e-5)


def test_a_random_subset_estimates_the_variance_of_all_pixels():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((12, 64, 64, 3)).astype(np.float32)
    states, _ = feed(
        wmv(algorithm_with(), window=10, num_pixels=500),
        images,
        problem=build_problem((64, 64, 3)),
    )
    assert states[-1].memory.window.shape == (10, 1500)
    full = images[2:].var(axis=0).mean()
    assert abs(float(signals(states)[-1]) / full - 1) < 5 * np.sqrt(2 / (9 * 1500))


def test_wmv_fires_when_the_minimum_is_confirmed_and_returns_it():
    rule = wmv(algorithm_with(), window=10, patience=0.2)
    states, improved = feed(rule, outputs_quietest_at(100, 200))
    done = next(t for t, s in enumerate(states) if s.done)
    best = int(states[done].minimum.best_step)
    # The signal belongs to the last output of the window, so it lags the quietest output.
    assert 100 <= best <= 112
    assert done == best + max(20, int(np.ceil(0.2 * best)))
    assert max(t for t in range(200) if improved[t]) == best
    assert states[-1].minimum.estimate_step == best


def test_a_rollback_empties_the_window():
    images = outputs_quietest_at(30, 60)
    accepted = [t != 25 for t in range(60)]
    states, improved = feed(wmv(algorithm_with(), window=8), images, accepted=accepted)
    assert not improved[25]
    assert np.isnan(signals(states)[25:33]).all()
    expected = images[26:34].var(axis=0).mean()
    np.testing.assert_allclose(signals(states)[33], expected, rtol=1e-5)


def test_no_minimum_is_confirmed_while_the_window_refills():
    # The spread of the outputs falls steadily; whenever the window is nearly full, a rollback follows.
    images = np.array([(-1.0) ** t * (1 - t / 400) for t in range(300)])
    accepted = [t < 60 or t % 9 != 0 for t in range(300)]
    states, _ = feed(wmv(algorithm_with(), window=10, patience=0.1), images, accepted=accepted)
    assert not states[-1].done
    assert int(states[-1].minimum.best_step) == 62
