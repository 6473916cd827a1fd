import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import restore
from dip_jax.base import Info
from dip_jax.errors import InputError
from dip_jax.keys import image_key
from dip_jax.presets import build_config
from dip_jax.stopping import (
    compare_rules,
    discrepancy,
    emv,
    fixed,
    held_out,
    stop_at_minimum,
    sure,
    wmv,
)
from dip_jax.tasks.simulate import simulate_case
from tests.stopping.toy_fits import (
    KEY,
    SHAPE,
    algorithm_with,
    build_problem,
    feed,
    outputs_quietest_at,
    scaling_algorithm,
)

RULES = ("fixed", "wmv", "emv", "discrepancy", "sure", "held_out")


def build_rules(algorithm):
    windows = {"window": 10, "patience": 0.2}
    rules = {
        "fixed": fixed(),
        "wmv": wmv(algorithm, **windows),
        "emv": emv(algorithm, rate=0.3, **windows),
        "discrepancy": discrepancy(),
        "sure": sure(algorithm, **windows),
        "held_out": held_out(algorithm, fraction=0.1, **windows),
    }
    assert set(rules) == set(RULES)
    return rules


def test_each_rule_among_all_acts_as_it_does_alone():
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.normal(0, 0.2, SHAPE), jnp.float32)
    problem = build_problem(measurement=y)
    images, num = outputs_quietest_at(60, 200), 200
    averages = (np.linspace(0, 1.6, num)[:, None, None, None] * np.asarray(y)).astype(np.float32)
    accepted = [t != 30 for t in range(num)]
    rules = build_rules(scaling_algorithm(np.linspace(0, 1.6, num), lag=3))
    compared = compare_rules(rules, returned="held_out")

    def feed_rule(rule, problem):
        return feed(rule, images, problem=problem, averages=averages, accepted=accepted)

    states, improved = feed_rule(compared, problem)
    visible = compared.view(states[0], problem)
    assert visible.weights.sum() < 48
    together = [compared.reports(state) for state in states]
    assert set(together[0]) == set(RULES)
    for name, rule in rules.items():
        # The measurements that `held_out` holds out are hidden from the other rules.
        alone, improved_alone = feed_rule(rule, problem if name == "held_out" else visible)
        for report, state in zip(together, alone, strict=True):
            for a, b in zip(report[name], rule.reports(state)[name], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)
        if name == "held_out":
            assert improved == improved_alone
        assert together[-1][name].done == (name != "fixed")
        last = max(t for t, better in enumerate(improved_alone) if better)
        assert together[-1][name].estimate_step == last
    assert not any(state.done for state in states)


def test_the_estimate_is_that_of_the_rule_that_is_returned_and_nothing_else_is_hidden():
    rules = build_rules(algorithm_with())
    compared = compare_rules({k: rules[k] for k in ("wmv", "emv")}, returned="emv")
    images = outputs_quietest_at(60, 200)
    states, improved = feed(compared, images)
    _, improved_alone = feed(rules["emv"], images)
    assert improved == improved_alone
    problem = build_problem()
    assert compared.view(states[-1], problem) is problem


def test_the_other_rules_see_the_problem_without_the_hidden_measurements():
    def count_visible(memory, problem, info):
        return memory, jnp.sum(problem.weights)

    counting = stop_at_minimum(count_visible, name="count")
    hiding = held_out(algorithm_with(), fraction=0.25)
    problem = build_problem(weights=jnp.ones(SHAPE))
    rules = {"held_out": hiding, "count": counting}
    for names, expected in ((("held_out", "count"), 36), (("count",), 48)):
        compared = compare_rules({name: rules[name] for name in names}, returned=names[0])
        (state,), _ = feed(compared, [0.5], problem=problem)
        assert float(compared.reports(state)["count"].signal) == expected


def test_rules_of_one_kind_are_reported_by_the_names_that_they_are_given():
    algorithm = algorithm_with()
    rules = {f"w{window}": wmv(algorithm, window=window) for window in (5, 10)}
    compared = compare_rules(rules, returned="w10")
    (state,), _ = feed(compared, [0.5])
    assert list(compared.reports(state)) == ["w5", "w10"]


def test_only_the_returned_rule_may_hide_measurements():
    algorithm = algorithm_with()
    rules = {"wmv": wmv(algorithm), "hiding": held_out(algorithm)}
    with pytest.raises(InputError, match="returned=wmv and hiding"):
        compare_rules(rules, returned="wmv")


def test_a_rule_that_is_not_compared_cannot_be_returned():
    rules = build_rules(algorithm_with())
    with pytest.raises(InputError, match="'held_out'"):
        compare_rules(rules, returned="heldout")


@pytest.mark.parametrize("name", ["fixed", "wmv", "emv", "held_out"])
def test_a_rule_runs_under_vmap(name):
    stopper = build_rules(algorithm_with())[name]
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
