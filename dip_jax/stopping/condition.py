"""Stop at the first step at which a condition holds."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from dip_jax.base import Array, Info, Problem, RuleReport, Shape, Stopper
from dip_jax.stopping.fixed import view_all


class ConditionState(NamedTuple):
    """State of `stop_when`."""

    estimate_step: Array
    """Step whose estimate was kept."""
    done: Array
    """Whether the condition has held."""


def stop_when(
    condition: Callable[[Problem, Array, Info], Array], *, name: str = "condition"
) -> Stopper:
    """Returns the rule that stops at the first accepted step at which a condition holds.

    It returns the estimate of that step.

    Args:
      condition: `condition(problem, step, info)`, a boolean scalar.
      name: Name of the rule in its report.

    Example:
      >>> rule = stop_when(lambda problem, step, info: info.loss < 0.01)
    """

    def init(key: Array, problem: Problem, shape: Shape) -> ConditionState:
        del key, problem, shape
        return ConditionState(jnp.int32(0), jnp.bool_(False))

    def update(
        state: ConditionState, problem: Problem, step: Array, info: Info
    ) -> tuple[ConditionState, Array]:
        improved = info.accepted & ~state.done
        done = state.done | (improved & condition(problem, step, info))
        estimate_step = jnp.where(improved, step, state.estimate_step)
        return ConditionState(estimate_step, done), improved

    def reports(state: ConditionState) -> dict[str, RuleReport]:
        return {name: RuleReport(jnp.float32(jnp.nan), state.estimate_step, state.done)}

    return Stopper(init, view_all, update, reports)
