"""When to stop, judged without the reference: rules as pure functions inside the compiled chunk.

A rule sees each step's `Info` and says two things: whether this step's answer is the best so far
(the caller then keeps it) and whether the fit is done. It may keep part of the measurement from the fit. See
`base.Stopper` for the form, `minimum` for what makes a minimum final, and `variance_rules` and `data_rules` for
what is watched.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from dip_jax.base import Algorithm, Array, Info, InputError, Problem, RuleReport, Stopper
from dip_jax.config import StopConfig
from dip_jax.fields import require_choice
from dip_jax.losses import build_likelihood
from dip_jax.stopping.discrepancy import discrepancy
from dip_jax.stopping.emv import emv
from dip_jax.stopping.fixed import fixed
from dip_jax.stopping.held_out import held_out
from dip_jax.stopping.sure import sure
from dip_jax.stopping.wmv import wmv

_DEFAULT = StopConfig().rule  # whose answer `all` hands out


class AllState(NamedTuple):
    """What the rules side by side need of the past, each its own."""

    rules: dict[str, Any]
    done: Array


def build_stopper(
    config: StopConfig,
    *,
    lag: int = 0,
    algorithm: Algorithm | None = None,
    loss: Callable[[Problem, Array], Array] | None = None,
) -> Stopper:
    """The rule that a config names.

    Its `init` takes the image's own key, the one that the estimator takes, because `sure` starts a second
    fit alike.

    Args:
      config: The rule and its settings.
      lag: Steps by which the answer (a running average) is behind the outputs.
      algorithm: The estimator, which `sure` needs.
      loss: What it minimizes, for `held_out`; by default the mean of |p - y|^2.

    Raises:
      InputError: For an unknown rule, or `sure` or `all` without the estimator.
    """
    rules: dict[str, Callable[[], Stopper]] = {
        "fixed": fixed,
        "wmv": lambda: wmv(config, lag=lag),
        "emv": lambda: emv(config, lag=lag),
        "discrepancy": lambda: discrepancy(config),
        "held_out": lambda: held_out(
            config, lag=lag, loss=build_likelihood("gaussian") if loss is None else loss
        ),
    }
    if algorithm is not None:
        rules["sure"] = lambda: sure(config, lag=lag, algorithm=algorithm)
    elif config.rule in ("sure", "all"):
        raise InputError(f"The rule {config.rule} fits a second time: it needs algorithm=...")
    require_choice("stopping rule", config.rule, (*rules, "all"))
    if config.rule == "all":
        return side_by_side({name: build() for name, build in rules.items()})
    return rules[config.rule]()


def side_by_side(rules: dict[str, Stopper]) -> Stopper:
    """All rules on one fit, to compare them: it runs all steps, and hands out the answer of the default rule.

    What `held_out` keeps from the fit the other rules do not see either, so each does what it would do alone
    for a measurement without those values.

    Args:
      rules: The rules by their names, among them the default one and `held_out`.
    """
    hiding = rules["held_out"]

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> AllState:
        held = hiding.init(key, problem, shape)
        visible = hiding.view(held, problem)
        states = {name: rule.init(key, visible, shape) for name, rule in rules.items()}
        return AllState({**states, "held_out": held}, jnp.bool_(False))

    def view(state: AllState, problem: Problem) -> Problem:
        return hiding.view(state.rules["held_out"], problem)

    def update(
        state: AllState, problem: Problem, step: Array, info: Info
    ) -> tuple[AllState, Array]:
        visible = view(state, problem)
        states, improved = {}, {}
        for name, rule in rules.items():
            seen = problem if rule is hiding else visible
            states[name], improved[name] = rule.update(state.rules[name], seen, step, info)
        return AllState(states, state.done), improved[_DEFAULT]

    def reports(state: AllState) -> dict[str, RuleReport]:
        found: dict[str, RuleReport] = {}
        for name, rule in rules.items():
            found |= rule.reports(state.rules[name])
        return found

    return Stopper(init, view, update, reports)
