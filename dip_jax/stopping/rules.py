"""The rule that a config selects, and all rules on one fit.

A stopping rule is a `base.Stopper`: pure functions that run inside the compiled chunk. In each step
it gets the `Info` of the estimator, never the reference, and decides whether the estimate of this
step is the best so far (the caller then keeps it) and whether the fit is done. It may hide part of
the measurement from the fit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from dip_jax.base import Algorithm, Array, Info, Problem, RuleReport, Stopper
from dip_jax.config import StopConfig
from dip_jax.errors import InputError
from dip_jax.fields import require_choice
from dip_jax.losses import build_likelihood
from dip_jax.stopping.discrepancy import discrepancy
from dip_jax.stopping.emv import emv
from dip_jax.stopping.fixed import fixed
from dip_jax.stopping.held_out import held_out
from dip_jax.stopping.sure import sure
from dip_jax.stopping.wmv import wmv

_DEFAULT = StopConfig().rule  # the rule whose estimate `all` returns


def build_stopper(
    config: StopConfig,
    *,
    lag: int = 0,
    algorithm: Algorithm | None = None,
    loss: Callable[[Problem, Array], Array] | None = None,
) -> Stopper:
    """Builds the stopping rule that a config selects.

    The `init` of the rule takes the key of the image, as the `init` of the estimator does, because
    `sure` starts a second fit with the same random numbers.

    Args:
      config: The rule and its settings.
      lag: Steps by which the running average lags behind the outputs; see `fit.average_lag`.
      algorithm: The estimator; required by the rules `sure` and `all`.
      loss: `loss(problem, prediction)`, the loss of the fit, for `held_out`; None for the mean of
        |p - y|^2.

    Raises:
      InputError: If the rule is unknown, or `sure` or `all` has no `algorithm`.

    Example:
      A loop of your own calls the rule once per step. Here, the error of the estimate falls below
      the noise:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from dip_jax.base import Info, Problem
      >>> from dip_jax.config import StopConfig
      >>> from dip_jax.operators import Identity
      >>> shape = (8, 8, 1)
      >>> problem = Problem(Identity(), measurement=jnp.zeros(shape), noise_std=0.1)
      >>> rule = build_stopper(StopConfig(rule="discrepancy"))
      >>> state = rule.init(jax.random.key(0), problem, shape)
      >>> for step, error in enumerate([0.4, 0.2, 0.09, 0.05]):
      ...     image = jnp.full(shape, error)
      ...     info = Info(jnp.float32(error**2), image, average=image, accepted=jnp.bool_(True))
      ...     state, improved = rule.update(state, problem, jnp.int32(step), info)
      >>> report = rule.reports(state)["discrepancy"]
      >>> bool(report.done), int(report.estimate_step)
      (True, 2)
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
        raise InputError(f"The rule {config.rule} runs a second fit; pass algorithm=...")
    require_choice("stopping rule", config.rule, (*rules, "all"))
    if config.rule == "all":
        return compare_rules({name: build() for name, build in rules.items()})
    return rules[config.rule]()


class ComparisonState(NamedTuple):
    """State of `compare_rules`."""

    rules: dict[str, Any]
    """State of each rule, by its name."""
    done: Array
    """Always False."""


def compare_rules(rules: dict[str, Stopper]) -> Stopper:
    """All rules on one fit, for comparison.

    All steps run, and the estimate of the default rule is returned. The measurements that
    `held_out` hides from the fit are hidden from the other rules too. So each rule acts as it
    would alone on a measurement without these values.

    Args:
      rules: The rules by their names, among them the default rule and `held_out`.
    """
    hiding = rules["held_out"]

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> ComparisonState:
        hiding_state = hiding.init(key, problem, shape)
        visible = hiding.view(hiding_state, problem)
        states = {name: rule.init(key, visible, shape) for name, rule in rules.items()}
        return ComparisonState({**states, "held_out": hiding_state}, jnp.bool_(False))

    def view(state: ComparisonState, problem: Problem) -> Problem:
        return hiding.view(state.rules["held_out"], problem)

    def update(
        state: ComparisonState, problem: Problem, step: Array, info: Info
    ) -> tuple[ComparisonState, Array]:
        visible = view(state, problem)
        states, improved = {}, {}
        for name, rule in rules.items():
            seen = problem if rule is hiding else visible
            states[name], improved[name] = rule.update(state.rules[name], seen, step, info)
        return ComparisonState(states, state.done), improved[_DEFAULT]

    def reports(state: ComparisonState) -> dict[str, RuleReport]:
        found: dict[str, RuleReport] = {}
        for name, rule in rules.items():
            found |= rule.reports(state.rules[name])
        return found

    return Stopper(init, view, update, reports)
