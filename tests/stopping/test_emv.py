import jax.numpy as jnp
import numpy as np

from dip_jax.stopping import emv
from tests.stopping.toy_fits import (
    SHAPE,
    algorithm_with,
    build_problem,
    feed,
    outputs_quietest_at,
    signals,
)


def moving_variance(images, rate):
    """The published recursion, in numpy."""
    m, v, found = images[0], 0.0, []
    for x in images:
        d = x - m
        m = m + rate * d
        v = (1 - rate) * (v + rate * np.mean(d**2))
        found.append(v)
    return np.array(found)


def test_the_signal_is_the_published_recursion():
    images = outputs_quietest_at(40, 80) + 0.5
    states, _ = feed(emv(algorithm_with()), images)
    expected = moving_variance(images, 0.1)
    assert np.isnan(signals(states)[:49]).all()
    np.testing.assert_allclose(signals(states)[49:], expected[49:], rtol=1e-4)


def test_the_signal_of_steady_outputs_is_their_variance():
    images = np.random.default_rng(0).normal(0, 0.1, (400, *SHAPE))
    states, _ = feed(emv(algorithm_with()), images)
    # The variance of d is s^2 (1 + a / (2 - a)), and v is 1 - a times that.
    expected = 0.9 * 0.01 * (1 + 0.1 / 1.9)
    found = signals(states)[100:].mean()
    assert abs(found / expected - 1) < 5 * np.sqrt(2 / (300 * 48))


def test_a_rollback_restarts_the_recursion():
    images = outputs_quietest_at(30, 60)
    images[20] = np.nan
    accepted = [t != 20 for t in range(60)]
    states, _ = feed(emv(algorithm_with(), rate=0.5), images, accepted=accepted)
    assert np.isnan(signals(states)[20:30]).all()
    expected = moving_variance(images[21:], 0.5)
    np.testing.assert_allclose(signals(states)[30:], expected[9:], rtol=1e-4)


def test_a_padded_margin_does_not_change_the_signal():
    images = outputs_quietest_at(30, 60)
    wide = np.pad(images, [(0, 0), (0, 4), (0, 2), (0, 0)])
    region = jnp.asarray(np.pad(np.ones(SHAPE, np.float32), [(0, 4), (0, 2), (0, 0)]))
    problem = build_problem((12, 8, 1), region=region)
    plain, _ = feed(emv(algorithm_with()), images)
    padded, _ = feed(emv(algorithm_with()), wide, problem=problem)
    np.testing.assert_allclose(signals(padded)[49:], signals(plain)[49:], rtol=1e-5)
