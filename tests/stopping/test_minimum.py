import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.stopping import emv, held_out, stop_at_minimum, wmv
from dip_jax.stopping.minimum import warm_up
from tests.stopping.toy_fits import SHAPE, algorithm_with, feed, outputs_quietest_at, signals


def build_rule(name, *, lag=0, **settings):
    """`wmv` or `emv` with the rate 0.3."""
    algorithm = algorithm_with(lag=lag)
    if name == "wmv":
        return wmv(algorithm, **settings)
    return emv(algorithm, rate=0.3, **settings)


def test_no_minimum_counts_before_the_warm_up():
    # Constant, then noisy until step 100; without a warm-up the rule would stop at step 10.
    rule = wmv(algorithm_with(), window=10, patience=0.2)
    images = np.concatenate([np.zeros((10, *SHAPE)), outputs_quietest_at(90, 190)])
    states, improved = feed(rule, images)
    assert int(states[-1].minimum.best_step) > 50
    assert all(improved[: warm_up(SHAPE, min_step=20) - 1])


def test_the_warm_up_grows_with_the_image():
    assert warm_up((64, 64, 3), min_step=200) == 200
    assert warm_up((512, 512, 3), min_step=200) == 512
    assert warm_up((400, 900, 3), min_step=200) == 600
    assert warm_up((64, 64, 3)) == 64


def test_a_minimum_of_a_risk_counts_before_one_of_a_variance():
    # Two windows are 20 steps; the square root of the number of pixels is 7.
    estimates = [np.full(SHAPE, abs(t - 12) / 100 + 0.1) for t in range(60)]
    estimates[3] = np.zeros(SHAPE)
    rule = held_out(algorithm_with(), window=10, patience=0.5)
    states, _ = feed(rule, estimates)
    assert states[-1].minimum.estimate_step == 12


@pytest.mark.parametrize("name", ["wmv", "emv"])
def test_the_estimate_follows_the_minimum_of_a_variance_by_the_lag_of_the_average(name):
    rule = build_rule(name, lag=7, window=10, patience=0.2)
    states, improved = feed(rule, outputs_quietest_at(100, 200))
    best = int(states[-1].minimum.best_step)
    assert 95 <= best <= 115
    assert max(t for t, better in enumerate(improved) if better) == best + 7


@pytest.mark.parametrize("name", ["wmv", "emv"])
def test_a_confirmed_minimum_is_final(name):
    rule = build_rule(name, window=10, patience=0.1)
    images = np.concatenate([outputs_quietest_at(60, 150), np.zeros((30, *SHAPE))])
    states, improved = feed(rule, images)
    assert all(s.done for s in states[-31:])
    # The signal is lower than ever, but the minimum is final.
    assert signals(states)[-1] < states[-31].minimum.lowest
    for frozen in ("best_step", "estimate_step", "lowest"):
        assert getattr(states[-1].minimum, frozen) == getattr(states[-31].minimum, frozen)
    assert not any(improved[-31:])


def test_a_rejected_step_is_not_a_minimum():
    estimates = [np.full(SHAPE, abs(t - 50) / 100 + 0.1) for t in range(150)]
    estimates[40] = np.zeros(SHAPE)
    rule = held_out(algorithm_with(), window=10, patience=0.5)
    states, improved = feed(rule, estimates, accepted=[t != 40 for t in range(150)])
    assert not improved[40]
    assert states[-1].minimum.estimate_step == 50


def loss_signal(memory, problem, info):
    return memory, info.loss


def test_a_rule_of_a_signal_alone_has_the_defaults_of_a_risk():
    # The lowest loss is that of step 5, before the warm-up of 7 steps; that of step 300 counts.
    losses = np.abs(np.arange(700) - 300) + 10.0
    losses[5] = losses[310] = 0.0
    accepted = [t != 310 for t in range(700)]  # the guard undid a step of loss 0
    states, improved = feed(
        stop_at_minimum(loss_signal), [0.5] * 700, losses=losses, accepted=accepted
    )
    reports = [stop_at_minimum(loss_signal).reports(state) for state in states]
    assert set(reports[0]) == {"minimum"}
    np.testing.assert_allclose([r["minimum"].signal for r in reports], losses)
    # Two windows of 100 steps are more than half of 300.
    assert [bool(state.done) for state in states] == [t >= 500 for t in range(700)]
    assert int(reports[-1]["minimum"].estimate_step) == 300
    assert max(t for t, better in enumerate(improved) if better) == 300
    assert improved[:7] == [True] * 7


def test_the_name_the_lag_and_the_delay_of_a_rule_are_those_that_it_is_given():
    losses = np.abs(np.arange(100) - 40) + 10.0
    rule = stop_at_minimum(
        loss_signal, name="mine", lag=3, window=5, patience=0.1, min_step=30, delay=4
    )
    losses[25] = 0.0  # before the first step that counts
    states, improved = feed(rule, [0.5] * 100, losses=losses)
    report = rule.reports(states[-1])["mine"]
    assert int(report.estimate_step) == 44
    assert int(states[-1].minimum.best_step) == 40
    assert [bool(state.done) for state in states].index(True) == 40 + 2 * 5 + 3
    assert improved == [t <= 44 for t in range(100)]


def test_a_rule_of_a_maximum_is_that_of_the_negative_signal_with_its_own_memory():
    # The memory counts the steps, and the first ten have no signal.
    def signal(count, problem, info):
        value = jnp.where(count < 10, jnp.nan, -info.loss)
        return count + 1, value

    losses = 100.0 - np.abs(np.arange(60) - 20)
    losses[5] = 1000.0
    rule = stop_at_minimum(
        signal, init_memory=lambda key, problem, shape: jnp.int32(0), window=2, patience=0.1
    )
    states, _ = feed(rule, [0.5] * 60, losses=losses)
    assert int(states[-1].memory) == 60
    assert int(rule.reports(states[-1])["minimum"].estimate_step) == 20
    assert [bool(state.done) for state in states].index(True) == 24
