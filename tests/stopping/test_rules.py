import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import restore
from dip_jax.base import Info
from dip_jax.config import StopConfig
from dip_jax.errors import InputError
from dip_jax.keys import image_key
from dip_jax.presets import build_config
from dip_jax.stopping.rules import build_stopper
from dip_jax.tasks.simulate import simulate_case
from tests.stopping.toy_fits import (
    KEY,
    SHAPE,
    build_problem,
    feed,
    outputs_quietest_at,
    scaling_algorithm,
)


def test_a_rule_that_needs_the_estimator_is_refused_without_one():
    with pytest.raises(InputError, match="algorithm"):
        build_stopper(StopConfig(rule="sure"))


RULES = ("fixed", "wmv", "emv", "discrepancy", "sure", "held_out")


def test_each_rule_among_all_acts_as_it_does_alone():
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.normal(0, 0.2, SHAPE), jnp.float32)
    problem = build_problem(measurement=y)
    images, num = outputs_quietest_at(60, 200), 200
    averages = (np.linspace(0, 1.6, num)[:, None, None, None] * np.asarray(y)).astype(np.float32)
    accepted = [t != 30 for t in range(num)]
    algorithm = scaling_algorithm(np.linspace(0, 1.6, num))
    settings = {"window": 10, "patience": 0.2, "emv_rate": 0.3, "held_out_fraction": 0.1}

    def feed_rule(rule, problem):
        options = {"averages": averages, "accepted": accepted, "algorithm": algorithm, "lag": 3}
        return feed(StopConfig(rule=rule, **settings), images, problem=problem, **options)

    states, improved = feed_rule("all", problem)
    rules = build_stopper(StopConfig(rule="all", **settings), lag=3, algorithm=algorithm)
    visible = rules.view(states[0], problem)
    assert visible.weights.sum() < 48
    together = [rules.reports(state) for state in states]
    assert set(together[0]) == set(RULES)
    for rule in RULES:
        # The measurements that `held_out` holds out are hidden from the other rules.
        alone, improved_alone = feed_rule(rule, problem if rule == "held_out" else visible)
        reports = build_stopper(
            StopConfig(rule=rule, **settings), lag=3, algorithm=algorithm
        ).reports
        for report, state in zip(together, alone, strict=True):
            for a, b in zip(report[rule], reports(state)[rule], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)
        if rule == "held_out":
            assert improved == improved_alone
        assert together[-1][rule].done == (rule != "fixed")
        last = max(t for t, better in enumerate(improved_alone) if better)
        assert together[-1][rule].estimate_step == last
    assert not any(state.done for state in states)


@pytest.mark.parametrize("rule", ["fixed", "wmv", "emv", "held_out"])
def test_a_rule_runs_under_vmap(rule):
    stopper = build_stopper(StopConfig(rule=rule, window=3))
    states = jax.vmap(lambda _: stopper.init(KEY, build_problem(), SHAPE))(jnp.arange(2))
    x = jnp.ones((2, *SHAPE))
    info = Info(jnp.zeros(2), x, x, jnp.array([True, False]))
    _, improved = jax.vmap(stopper.update, in_axes=(0, None, None, 0))(
        states, build_problem(), jnp.int32(0), info
    )
    assert improved.tolist() == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("slot_mode", ["map", "vmap"])
def test_a_run_reports_all_rules(image, tiny, slot_mode):
    config = build_config(
        overrides=[
            *tiny,
            "fit.num_steps=25",
            "stop.rule=all",
            "stop.window=5",
            f"run.slot_mode={slot_mode}",
            "run.slots=2",
            "stop.emv_rate=0.5",
            "net.sides_per_octave=4",
        ]
    )
    cases = [simulate_case(image_key(0, name), config.task, name, image[:39, :35]) for name in "ab"]
    for result in restore(cases, config):
        assert set(result.stops) == set(RULES)
        assert result.num_steps == 25
        assert result.status == "done"
        assert result.stop_step == result.stops["held_out"][0]
        for rule in ("wmv", "emv", "discrepancy", "held_out", "sure"):
            signal = result.curve[f"signal_{rule}"]
            assert np.isfinite(signal[12:]).all(), rule
        # Far from the reference, both signals estimate the squared error.
        mse = 10 ** (-result.curve["psnr_average"] / 10)
        assert abs(result.curve["signal_sure"][-1] / mse[-1] - 1) < 0.3
        assert abs(result.curve["signal_held_out"][-1] - mse[-1] - (25 / 255) ** 2) < 0.3 * mse[-1]
