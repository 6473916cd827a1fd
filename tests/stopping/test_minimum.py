import numpy as np
import pytest

from dip_jax.config import StopConfig
from dip_jax.stopping.minimum import warm_up
from tests.stopping.toy_fits import SHAPE, feed, outputs_quietest_at, signals


def test_no_minimum_counts_before_the_warm_up():
    # Constant, then noisy until step 100; without a warm-up the rule would stop at step 10.
    config = StopConfig(rule="wmv", window=10, patience=0.2)
    images = np.concatenate([np.zeros((10, *SHAPE)), outputs_quietest_at(90, 190)])
    states, improved = feed(config, images)
    assert int(states[-1].minimum.best_step) > 50
    assert all(improved[: warm_up(SHAPE, window=10) - 1])


def test_the_warm_up_grows_with_the_image():
    assert warm_up((64, 64, 3), window=100) == 200
    assert warm_up((512, 512, 3), window=100) == 512
    assert warm_up((400, 900, 3), window=100) == 600
    assert warm_up((64, 64, 3)) == 64


def test_a_minimum_of_a_risk_counts_before_one_of_a_variance():
    # Two windows are 20 steps; the square root of the number of pixels is 7.
    estimates = [np.full(SHAPE, abs(t - 12) / 100 + 0.1) for t in range(60)]
    estimates[3] = np.zeros(SHAPE)
    config = StopConfig(rule="held_out", window=10, patience=0.5)
    states, _ = feed(config, estimates)
    assert states[-1].minimum.estimate_step == 12


@pytest.mark.parametrize("rule", ["wmv", "emv"])
def test_the_estimate_follows_the_minimum_of_a_variance_by_the_lag_of_the_average(rule):
    config = StopConfig(rule=rule, window=10, patience=0.2, emv_rate=0.3)
    states, improved = feed(config, outputs_quietest_at(100, 200), lag=7)
    best = int(states[-1].minimum.best_step)
    assert 95 <= best <= 115
    assert max(t for t, better in enumerate(improved) if better) == best + 7


@pytest.mark.parametrize("rule", ["wmv", "emv"])
def test_a_confirmed_minimum_is_final(rule):
    config = StopConfig(rule=rule, window=10, patience=0.1, emv_rate=0.3)
    images = np.concatenate([outputs_quietest_at(60, 150), np.zeros((30, *SHAPE))])
    states, improved = feed(config, images)
    assert all(s.done for s in states[-31:])
    # The signal is lower than ever, but the minimum is final.
    assert signals(states)[-1] < states[-31].minimum.lowest
    for frozen in ("best_step", "estimate_step", "lowest"):
        assert getattr(states[-1].minimum, frozen) == getattr(states[-31].minimum, frozen)
    assert not any(improved[-31:])


def test_a_rejected_step_is_not_a_minimum():
    estimates = [np.full(SHAPE, abs(t - 50) / 100 + 0.1) for t in range(150)]
    estimates[40] = np.zeros(SHAPE)
    config = StopConfig(rule="held_out", window=10, patience=0.5)
    states, improved = feed(config, estimates, accepted=[t != 40 for t in range(150)])
    assert not improved[40]
    assert states[-1].minimum.estimate_step == 50
