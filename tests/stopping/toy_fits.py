"""Toy problems, outputs and estimators on which the tests run stopping rules step by step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Algorithm, Info, Net, Problem
from dip_jax.fit import Average, build_fit
from dip_jax.operators.basic import Identity

SHAPE = (8, 6, 1)
KEY = jax.random.key(0)


def build_problem(shape=SHAPE, **fields):
    return Problem(
        **{"operator": Identity(), "measurement": jnp.zeros(shape), "noise_std": 0.1} | fields
    )


def algorithm_with(*, lag=0, loss=None):
    """An estimator of which only the lag and the loss are known."""

    def unused(*arguments):
        raise AssertionError("The rule must not run the estimator.")

    return Algorithm(unused, unused, lag=lag, loss=loss)


def feed(rule, outputs, *, accepted=None, averages=None, losses=None, problem=None):
    """Feeds outputs to a rule; returns its states, and the steps that improved the estimate."""
    update = jax.jit(rule.update)
    problem = build_problem() if problem is None else problem
    shape = SHAPE if np.ndim(outputs[0]) == 0 else np.shape(outputs[0])
    state = rule.init(KEY, problem, shape)
    states, improved = [], []
    for t, output in enumerate(outputs):
        is_accepted = jnp.bool_(accepted is None or accepted[t])
        x = jnp.full(SHAPE, output) if np.ndim(output) == 0 else jnp.asarray(output, jnp.float32)
        average = x if averages is None else jnp.asarray(averages[t], jnp.float32)
        loss = jnp.float32(0 if losses is None else losses[t])
        info = Info(loss, x, average, is_accepted)
        state, is_better = update(state, problem, jnp.int32(t), info)
        states.append(state)
        improved.append(bool(is_better))
    return states, improved


def signals(states):
    return np.array([state.minimum.signal for state in states])


def outputs_quietest_at(quietest, num, seed=0):
    """Random outputs whose spread falls until the step `quietest` and rises after it."""
    rng = np.random.default_rng(seed)
    spread = 0.01 + 0.002 * np.abs(np.arange(num) - quietest)
    return spread[:, None, None, None] * rng.standard_normal((num, *SHAPE))


def run_with_rule(rule, algorithm, problem, num_steps, shape):
    """Runs an estimator and its rule as a slot does; returns the states of the rule, the infos."""
    state, rule_state = algorithm.init(KEY, problem, shape), rule.init(KEY, problem, shape)

    @jax.jit
    def make_step(step, state, rule_state):
        state, info = algorithm.step(rule.view(rule_state, problem), state)
        return state, rule.update(rule_state, problem, step, info)[0], info

    rule_states, infos = [], []
    for t in range(num_steps):
        state, rule_state, info = make_step(jnp.int32(t), state, rule_state)
        rule_states.append(rule_state)
        infos.append(info)
    return rule_states, infos


class ScalingState(NamedTuple):
    step: jax.Array
    key: jax.Array
    diverged: jax.Array


def scaling_algorithm(factors, *, diverged=False, lag=0):
    """An estimator whose output at step t is a_t y, for the factors a_t."""
    factors = jnp.asarray(factors, jnp.float32)

    def init(key, problem, shape):
        return ScalingState(jnp.int32(0), jax.random.key_data(key), jnp.bool_(diverged))

    def step(problem, state):
        image = factors[state.step] * problem.measurement
        info = Info(jnp.float32(0), image, image, jnp.bool_(True))
        return state._replace(step=state.step + 1), info

    return Algorithm(init, step, lag=lag)


def smooth_fit():
    """A fit whose pixels depend on each other: the image is the weights, blurred."""

    def apply(params, code):
        w = params["w"] * code
        return w + 0.5 * (jnp.roll(w, 1, 0) + jnp.roll(w, -1, 1))

    net = Net(lambda key: {"w": jnp.ones(SHAPE)}, apply, SHAPE, SHAPE)
    return build_fit(net, average=Average(0.5))
