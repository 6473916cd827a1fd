"""Several stopping rules on one fit."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from dip_jax.base import Array, Info, Problem, RuleReport, Shape, Stopper
from dip_jax.errors import InputError
from dip_jax.fields import require_choice
from dip_jax.stopping.fixed import view_all


class ComparisonState(NamedTuple):
    """State of `compare_rules`."""

    rules: dict[str, Any]
    """State of each rule, by its name."""
    done: Array
    """Always False."""


def compare_rules(rules: dict[str, Stopper], *, returned: str) -> Stopper:
    """Returns all rules on one fit, for comparison.

    All steps run, and the estimate of one rule is returned. The measurements that this rule hides
    from the fit are hidden from the other rules too. So each rule acts as it would alone on a
    measurement without these values.

    Args:
      rules: The rules by names, which are also those of their reports.
      returned: Name of the rule whose estimate is returned.

    Raises:
      InputError: If there is no such rule, or another rule hides measurements.
    """
    require_choice("stopping rule", returned, tuple(rules))
    hidden = [name for name, rule in rules.items() if rule.view is not view_all]
    if set(hidden) - {returned}:
        raise InputError(
            f"Only the returned rule may hide measurements, got returned={returned} and {', '.join(hidden)}; return "
            "the rule that hides them."
        )
    hiding = rules[returned]

    def init(key: Array, problem: Problem, shape: Shape) -> ComparisonState:
        hiding_state = hiding.init(key, problem, shape)
        visible = hiding.view(hiding_state, problem)
        states = {name: rule.init(key, visible, shape) for name, rule in rules.items()}
        return ComparisonState({**states, returned: hiding_state}, jnp.bool_(False))

    def view(state: ComparisonState, problem: Problem) -> Problem:
        return hiding.view(state.rules[returned], problem)

    def update(
        state: ComparisonState, problem: Problem, step: Array, info: Info
    ) -> tuple[ComparisonState, Array]:
        visible = view(state, problem)
        states, improved = {}, {}
        for name, rule in rules.items():
            seen = problem if rule is hiding else visible
            states[name], improved[name] = rule.update(state.rules[name], seen, step, info)
        return ComparisonState(states, state.done), improved[returned]

    def reports(state: ComparisonState) -> dict[str, RuleReport]:
        found: dict[str, RuleReport] = {}
        for name, rule in rules.items():
            reports = rule.reports(state.rules[name])
            found |= {name if len(reports) == 1 else f"{name} {k}": v for k, v in reports.items()}
        return found

    needs_start = any(rule.needs_start for rule in rules.values())
    return Stopper(init, view, update, reports, needs_start)
