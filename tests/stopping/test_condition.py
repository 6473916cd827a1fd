import jax.numpy as jnp
import numpy as np

from dip_jax.stopping import stop_when
from tests.stopping.toy_fits import SHAPE, build_problem, feed


def test_the_rule_fires_at_the_first_step_at_which_the_condition_holds():
    losses = np.array([5.0, 4.0, 3.0, 2.0, 4.0, 1.0])
    rule = stop_when(lambda problem, step, info: info.loss < 2.5)
    states, improved = feed(rule, [0.5] * 6, losses=losses)
    assert [bool(state.done) for state in states] == [False] * 3 + [True] * 3
    assert improved == [True] * 4 + [False] * 2
    report = rule.reports(states[-1])["condition"]
    assert int(report.estimate_step) == 3
    assert bool(report.done)
    assert np.isnan(report.signal)


def test_a_rejected_step_neither_fires_nor_improves():
    rule = stop_when(lambda problem, step, info: info.loss < 2.5, name="small loss")
    accepted = [True, False, False, True, True]
    states, improved = feed(rule, [0.5] * 5, losses=[3.0, 1.0, 1.0, 3.0, 2.0], accepted=accepted)
    assert improved == accepted
    assert [int(state.estimate_step) for state in states] == [0, 0, 0, 3, 4]
    assert [bool(state.done) for state in states] == [False] * 4 + [True]
    assert set(rule.reports(states[-1])) == {"small loss"}


def test_a_condition_sees_the_problem_the_step_and_the_estimate():
    problem = build_problem(measurement=jnp.full(SHAPE, 0.4))

    def is_close(problem, step, info):
        error = jnp.max(jnp.abs(problem.operator(info.estimate) - problem.measurement))
        return (error < 0.15) & (step >= 3)

    averages = [np.full(SHAPE, value) for value in (0.4, 0.4, 0.1, 0.2, 0.3, 0.4)]
    rule = stop_when(is_close)
    states, _ = feed(rule, [0.9] * 6, averages=averages, problem=problem)
    assert [bool(state.done) for state in states].index(True) == 4
    assert rule.view(states[-1], problem) is problem


def test_a_condition_that_never_holds_runs_all_steps():
    rule = stop_when(lambda problem, step, info: jnp.bool_(False))
    states, improved = feed(rule, [0.5] * 4)
    assert improved == [True] * 4
    assert int(states[-1].estimate_step) == 3
    assert not states[-1].done
